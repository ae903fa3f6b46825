"""Metrics on hand-worked cases."""

import math

import pytest

from lorabundle.metrics import Rouge, loss_difference, unigram_loss
from lorabundle.scoring import Score

NAMES = [str(number) for number in range(20)]  # each example a group of its own


def test_rouge_by_hand():
    """Prediction `the cat sat`, reference `the cat ran`: 2 of 3 words, 1 of 2 pairs, longest common run of 2."""
    result = Rouge(keep_in_memory=True).compute(predictions=["the cat sat", "a"], references=["the cat ran", "a"])
    assert result["rouge1"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["rouge2"] == pytest.approx((1 / 2 + 0) / 2)
    assert result["rougeL"] == pytest.approx((2 / 3 + 1) / 2)


def test_unigram_by_hand():
    """Train 0 0 1 over 4 tokens: p(0) = 3/7, p(1) = 2/7, p(unseen) = 1/7."""
    expected = -(math.log(3 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3
    assert unigram_loss([0, 0, 1], [0, 1, 3], vocab_size=4) == pytest.approx(expected)


def test_loss_difference_is_the_difference_of_the_losses():
    base = [Score(4.0, 2, 0), Score(9.0, 3, 0)]
    finetuned = [Score(2.0, 2, 0), Score(6.0, 3, 0)]
    delta = loss_difference(base, finetuned, NAMES[: len(base)], seed=0)
    assert delta["mean"] == pytest.approx(8 / 5 - 13 / 5)
    assert delta["ci95"] == pytest.approx([-1.0, -1.0])  # each example gains 1 nat a token, so every resample does


def test_interval_covers_zero_when_examples_disagree():
    base = [Score(1.0, 1, 0)] * 10
    finetuned = [Score(0.0, 1, 0), Score(2.0, 1, 0)] * 5
    low, high = loss_difference(base, finetuned, NAMES[: len(base)], seed=0)["ci95"]
    assert low < 0 < high


def test_groups_are_drawn_whole():
    """Ten copies of two examples are still two: counted as twenty, they would look far more certain than they are."""
    base = [Score(1.0, 1, 0)] * 20
    finetuned = [Score(0.0, 1, 0)] * 10 + [Score(1.5, 1, 0)] * 10
    grouped = loss_difference(base, finetuned, ["a"] * 10 + ["b"] * 10, seed=0)
    assert grouped["ci95"] == pytest.approx([-1.0, 0.5])
    single = loss_difference(base, finetuned, NAMES, seed=0)
    assert single["mean"] == pytest.approx(grouped["mean"])
    assert single["ci95"][1] - single["ci95"][0] < 1


def test_interval_is_seeded():
    base = [Score(float(n), 1, 0) for n in range(20)]
    finetuned = [Score(n * 0.9 + n % 3, 1, 0) for n in range(20)]
    assert loss_difference(base, finetuned, NAMES[: len(base)], seed=1) == loss_difference(
        base, finetuned, NAMES[: len(base)], seed=1
    )
    assert (
        loss_difference(base, finetuned, NAMES[: len(base)], seed=1)["ci95"]
        != loss_difference(base, finetuned, NAMES[: len(base)], seed=2)["ci95"]
    )
