"""Every aggregate follows from the rows of examples.jsonl."""

import json
import math

import pytest

from lorabundle.evaluation.aggregate import summarise
from tests.unit.evaluation.hand_made import EXAMPLES, WITH_VERIFIER


def test_loss_is_per_token_and_not_a_mean_of_means():
    """(9 + 1 + 10) nats over 1 + 9 + 10 tokens; the mean of the rows' means would be (9 + 1/9 + 1) / 3 = 3.37."""
    models = summarise(EXAMPLES, seed=0)["models"]
    assert models["base"]["loss"] == 1.0
    assert models["base"]["perplexity"] == math.e
    assert models["finetuned"]["loss"] == 0.5
    assert (models["base"]["tokens"], models["base"]["examples"]) == (20, 3)
    assert (models["base"]["token_accuracy"], models["finetuned"]["token_accuracy"]) == (10 / 20, 12 / 20)


def test_answers_are_averaged_over_examples():
    models = summarise(EXAMPLES, seed=0)["models"]
    assert models["finetuned"]["exact_match"] == pytest.approx(1 / 3)
    assert models["finetuned"]["rougeL"] == pytest.approx(2 / 3)
    assert models["base"]["stop_rate"] == pytest.approx(2 / 3)
    assert models["base"]["length_ratio"] == pytest.approx(3 / 6)  # three words for six


def test_changes_and_sign_test():
    summary = summarise(EXAMPLES, seed=0)
    assert summary["delta"]["loss"]["mean"] == pytest.approx(-0.5)
    assert summary["delta"]["token_accuracy"]["mean"] == pytest.approx(0.1)
    assert summary["delta"]["rougeL"]["mean"] == pytest.approx(0.5 / 3)
    assert (summary["sign_test"]["improved"], summary["sign_test"]["worsened"]) == (2, 1)
    assert summary["bootstrap"] == {"resamples": 10_000, "seed": 0, "unit": "group", "units": 3}


def test_each_kind_is_summarised_by_itself():
    kinds = summarise(EXAMPLES, seed=0)["kinds"]
    assert list(kinds) == ["x", "y"]
    assert kinds["x"]["models"]["base"]["loss"] == 1.0
    assert kinds["x"]["delta"]["loss"]["mean"] == pytest.approx(-0.7)
    assert kinds["y"]["models"]["finetuned"]["loss"] == 0.7
    assert kinds["y"]["delta"]["loss"]["ci95"] == []  # one group


def test_only_a_full_mark_counts_as_right():
    """reasoning-gym's verifiers give 0.05 and the like for a wrong answer in the right form."""
    summary = summarise(WITH_VERIFIER, seed=0)
    models = summary["models"]
    assert summary["majority"]["correct"] == summary["kinds"]["x"]["majority"]["correct"] == 2
    assert models["base"]["accuracy"]["rate"] == 0.0
    assert (models["finetuned"]["accuracy"]["correct"], models["finetuned"]["accuracy"]["examples"]) == (1, 2)


def test_without_verifier_there_is_no_accuracy():
    summary = summarise(EXAMPLES, seed=0)
    assert "accuracy" not in summary["models"]["base"]
    assert "majority" not in summary


def test_reading_the_rows_back_gives_the_same_aggregates():
    read_back = [json.loads(json.dumps(row)) for row in EXAMPLES]
    assert summarise(read_back, seed=1) == summarise(EXAMPLES, seed=1)
