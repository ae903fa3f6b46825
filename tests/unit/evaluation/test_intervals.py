"""Intervals and the sign test, on hand-worked cases."""

import pytest

from lorabundle.evaluation.intervals import accuracy, paired_difference, sign_test

NAMES = [str(number) for number in range(20)]  # each example a group of its own


def test_difference_is_the_difference_of_the_weighted_means():
    """4 nats on 2 tokens and 9 on 3 become 2 and 6: 13/5 to 8/5. Each gains 1 a token, so every resample does."""
    delta = paired_difference([4.0, 9.0], [2.0, 6.0], [2, 3], NAMES[:2], seed=0)
    assert delta["mean"] == pytest.approx(8 / 5 - 13 / 5)
    assert delta["ci95"] == pytest.approx([-1.0, -1.0])


def test_interval_covers_zero_when_examples_disagree():
    low, high = paired_difference([1.0] * 10, [0.0, 2.0] * 5, [1] * 10, NAMES[:10], seed=0)["ci95"]
    assert low < 0 < high


def test_interval_has_the_width_that_theory_gives():
    """Mean of 400 coin flips of +-1: standard error 1/20, so 95 % of resamples lie within 1.96/20 = 0.098."""
    change = [1.0, -1.0] * 200
    low, high = paired_difference([0.0] * 400, change, [1] * 400, [str(n) for n in range(400)], seed=0)["ci95"]
    assert (low, high) == (pytest.approx(-0.098, abs=0.008), pytest.approx(0.098, abs=0.008))


def test_groups_are_drawn_whole():
    """Ten copies of two examples are still two: counted as twenty, they would look far more certain than they are."""
    before, after = [1.0] * 20, [0.0] * 10 + [1.5] * 10
    grouped = paired_difference(before, after, [1] * 20, ["a"] * 10 + ["b"] * 10, seed=0)
    assert grouped["ci95"] == pytest.approx([-1.0, 0.5])
    single = paired_difference(before, after, [1] * 20, NAMES, seed=0)
    assert single["mean"] == pytest.approx(grouped["mean"])
    assert single["ci95"][1] - single["ci95"][0] < 1


def test_one_group_has_no_interval():
    assert paired_difference([1.0, 1.0], [0.0, 1.0], [1, 1], ["a", "a"], seed=0) == {"mean": -0.5, "ci95": []}


def test_interval_is_seeded():
    before, after = list(map(float, range(20))), [n * 0.9 + n % 3 for n in range(20)]

    def interval(seed: int) -> list[float]:
        return paired_difference(before, after, [1] * 20, NAMES, seed)["ci95"]

    assert interval(1) == interval(1) != interval(2)


def test_sign_test_by_hand():
    """Five pairs, four better, one worse: P(4 or more of 5, or 1 or fewer) = 2 (5 + 1) / 32. The tie is left out."""
    result = sign_test([1.0] * 6, [0.5, 0.5, 0.5, 0.5, 2.0, 1.0])
    assert result == {"improved": 4, "worsened": 1, "unchanged": 1, "p_value": pytest.approx(12 / 32)}


def test_sign_test_without_any_change():
    assert sign_test([1.0], [1.0]) == {"improved": 0, "worsened": 0, "unchanged": 1, "p_value": 1.0}


def test_wilson_interval_by_hand():
    """3 of 10, z = 1.96: centre (3 + z²/2)/(10 + z²) = 0.3555, half-width z sqrt(3·7/10 + z²/4)/(10 + z²) = 0.2477."""
    result = accuracy(3, 10)
    assert result["rate"] == 0.3
    assert result["ci95"] == pytest.approx([0.1078, 0.6032], abs=1e-4)


def test_wilson_interval_of_none_right_is_not_empty():
    low, high = accuracy(0, 50)["ci95"]
    assert low == 0.0
    assert high == pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-4)
