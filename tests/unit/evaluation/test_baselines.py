"""Guesses without a model, on hand-worked cases."""

import math

import pytest

from lorabundle.evaluation.baselines import majority_answers, reference, token_baselines, unigram_baseline
from tests.conftest import ask


def test_unigram_by_hand():
    """Train 0 0 1 over 4 tokens: p(0) = 3/7, p(1) = 2/7, p(unseen) = 1/7; always guessing 0 is right once in three."""
    result = unigram_baseline([0, 0, 1], [0, 1, 3], vocab_size=4)
    assert result["loss"] == pytest.approx(-(math.log(3 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["token_accuracy"] == pytest.approx(1 / 3)


def test_baselines_are_over_the_response_tokens():
    """Train 5 5 6, test 5 7, vocabulary 10: p(5) = 3/13, p(unseen) = 1/13. A label of -100 is no response token."""
    train, test = [{"labels": [-100, 5, 5]}, {"labels": [6]}], [{"labels": [-100, -100, 5, 7]}]
    baselines = token_baselines(train, test, vocab_size=10)
    assert baselines["uniform"] == {"loss": math.log(10), "perplexity": 10.0}
    assert baselines["unigram"]["loss"] == pytest.approx(-(math.log(3 / 13) + math.log(1 / 13)) / 2)
    assert baselines["unigram"]["token_accuracy"] == 0.5


def test_most_frequent_answer_is_that_of_the_kind_in_training():
    """Twice 1 and once 2 for `gcd`; `sum` has a tie, which the smaller text wins; training had no `new`."""
    train = [
        ask("", answer, kind=kind)
        for kind, answer in [("gcd", "2"), ("gcd", "1"), ("gcd", "1"), ("sum", "9"), ("sum", "3")]
    ]
    test = [ask("", "2", kind=kind) for kind in ("sum", "gcd", "new")]
    assert majority_answers(train, test) == ["3", "1", ""]


def test_reference_is_the_datasets_answer():
    assert reference(ask("What?", "That.")) == "That."
