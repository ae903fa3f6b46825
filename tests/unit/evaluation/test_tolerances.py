"""By how much a number may differ between machines."""

import math

import pytest

from lorabundle.evaluation import tolerances
from lorabundle.evaluation.metrics import METRICS
from lorabundle.evaluation.tolerances import SIZES, TOLERANCES, allowed, allowed_nats, widened


def test_every_metric_has_one_or_follows_from_one_that_has():
    assert set(METRICS) - set(TOLERANCES) == {"perplexity"}


def test_training_again_allows_no_less_than_evaluating_again():
    assert all(0 < tolerance.evaluated <= tolerance.trained for tolerance in TOLERANCES.values())


def test_at_the_measured_size_twice_the_measured_difference_is_allowed():
    assert allowed("loss", SIZES, trained=False) == 2 * 0.0072
    assert allowed("loss", SIZES, trained=True) == 2 * 0.0161


def test_a_mean_over_a_quarter_may_differ_by_twice_as_much():
    """The noise of a mean goes with the root of its size. Loss is a mean over tokens, ROUGE-L over examples."""
    fewer_tokens = SIZES | {"tokens": SIZES["tokens"] / 4}
    fewer_examples = SIZES | {"examples": SIZES["examples"] / 4}
    assert (widened("loss", fewer_tokens), widened("loss", fewer_examples)) == (2.0, 1.0)
    assert (widened("rougeL", fewer_tokens), widened("rougeL", fewer_examples)) == (1.0, 2.0)


def test_a_mean_over_more_may_differ_by_no_less():
    assert widened("loss", {"examples": 10**6, "tokens": 10**6}) == 1.0


def test_nats_of_an_example_grow_with_the_root_of_its_tokens(monkeypatch):
    monkeypatch.setattr(tolerances, "NATS", 0.1)
    assert allowed_nats(10) == pytest.approx(2 * 0.1 * math.sqrt(10))
