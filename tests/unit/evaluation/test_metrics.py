"""The one table of metrics: everything that `aggregate` writes is in it, and everything in it has what its users need."""

import math

import pytest

from lorabundle.evaluation.aggregate import MODELS, summarise
from lorabundle.evaluation.metrics import METRICS, FollowsFrom, Tolerance
from tests.unit.evaluation.hand_made import EXAMPLES, WITH_VERIFIER

# Values besides the metrics that follow from the examples or from a metric
DERIVED = {"tokens", "examples", "correct", "perplexity"}


def numbers(value: dict | list | float, path: tuple = ()) -> list[tuple]:
    """The path of every number in a JSON value."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, item in items for found in numbers(item, (*path, key))]
    return [path]


@pytest.mark.parametrize("examples", [EXAMPLES, WITH_VERIFIER])
def test_every_number_that_is_written_is_of_a_metric_with_a_tolerance(examples):
    """`summarise` is asked, not a fixture: a metric that is added to it but not to the table is found here."""
    summary = summarise(examples, seed=0)
    measured = numbers({key: summary[key] for key in ("models", "delta", "kinds")})
    assert len(measured) > 60
    for path in measured:
        named = [key for key in path if key in METRICS or key in DERIVED]
        if "majority" in path:  # a guess without a model, which no machine makes differently
            continue
        assert named, f"{path} is not in METRICS"
        assert path[-1] in DERIVED or isinstance(METRICS[named[0]].tolerance, Tolerance), f"{path} has no tolerance"


@pytest.mark.parametrize(("examples", "has_accuracy"), [(EXAMPLES, False), (WITH_VERIFIER, True)])
def test_every_metric_of_the_table_is_written(examples, has_accuracy):
    expected = {key for key, metric in METRICS.items() if has_accuracy or not metric.needs_verifier}
    summary = summarise(examples, seed=0)
    for name in MODELS:
        assert set(summary["models"][name]) == expected | {"tokens", "examples"}
    assert set(summary["delta"]) == {key for key, metric in METRICS.items() if metric.change}
    by_kind = {key for key in expected if METRICS[key].by_kind}
    assert set(summary["kinds"]["x"]["models"]["base"]) == by_kind | {"tokens", "examples"}


def test_order_is_that_of_metrics_json():
    """The file's bytes are part of a run's fingerprint."""
    first = ["loss", "perplexity", "tokens", "examples", "token_accuracy", "rouge1", "rouge2", "rougeL", "bleu", "chrf"]
    last = ["length_ratio", "exact_match", "stop_rate", "repetition_rate", "accuracy"]
    assert list(summarise(WITH_VERIFIER, seed=0)["models"]["base"]) == first + last
    kinds = summarise(WITH_VERIFIER, seed=0)["kinds"]["x"]["models"]["base"]
    assert list(kinds) == ["loss", "tokens", "examples", "token_accuracy", "rougeL", "exact_match", "accuracy"]


def test_keys_and_headings_are_there_once():
    assert all(key == metric.key for key, metric in METRICS.items())
    assert len({metric.heading for metric in METRICS.values()}) == len(METRICS)
    assert all(metric.explanation and not metric.explanation.endswith(".") for metric in METRICS.values())


def test_what_follows_from_another_metric_follows_from_one_that_is_compared():
    followers = {key: m.tolerance for key, m in METRICS.items() if isinstance(m.tolerance, FollowsFrom)}
    assert set(followers) == {"perplexity"}
    assert all(isinstance(METRICS[source.key].tolerance, Tolerance) for source in followers.values())


def test_formats_show_a_number():
    for metric in METRICS.values():
        assert any(digit.isdigit() for digit in metric.format.format(math.pi))
        assert not metric.seeds_format or metric.seeds_format.format(math.pi).startswith("3.1")


def test_changes_are_of_columns_of_the_examples():
    """The paired bootstrap needs a value for each example."""
    assert all(metric.column for metric in METRICS.values() if metric.change)
