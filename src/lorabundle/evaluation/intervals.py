"""How certain a number is: paired bootstrap over groups, sign test, Wilson interval. All by scipy."""

import numpy as np
from scipy import stats

RESAMPLES = 10_000


def paired_difference(
    before: list[float], after: list[float], weights: list[float], groups: list[str], seed: int
) -> dict:
    """Change of a weighted mean from `before` to `after`, with a 95 % interval from the paired bootstrap (Efron 1979).

    Groups are drawn, not single examples: the examples of a group are alike, so drawing examples would make the interval too narrow.

    Args:
        before, after: each example's sum (nats, tokens that ranked first, ROUGE).
        weights: the number of things summed (the example's tokens; 1 for a mean over examples).
        groups: each example's group.
        seed: of the resampling.

    Returns:
        {"mean": sum of differences / sum of weights, "ci95": [low, high]; empty if all examples are of one group}.
    """
    _, member_of = np.unique(groups, return_inverse=True)
    change = np.bincount(member_of, weights=np.subtract(after, before))
    weight = np.bincount(member_of, weights=weights)
    mean = float(change.sum() / weight.sum())
    if len(weight) < 2:
        return {"mean": mean, "ci95": []}

    def ratio(changes: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
        return changes.sum(axis=axis) / weights.sum(axis=axis)

    interval = stats.bootstrap(
        (change, weight),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,  # bounds memory: 1000 x groups
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {"mean": mean, "ci95": [float(interval.low), float(interval.high)]}


def sign_test(before: list[float], after: list[float]) -> dict:
    """Two-sided sign test on pairs of values, where lower is better: could so many improve by chance?

    Returns {"improved", "worsened", "unchanged": counts, "p_value"}. The test does not count unchanged pairs, as usual.
    """
    improved = sum(new < old for old, new in zip(before, after, strict=True))
    worsened = sum(new > old for old, new in zip(before, after, strict=True))
    p_value = stats.binomtest(improved, improved + worsened).pvalue if improved + worsened else 1.0
    unchanged = len(before) - improved - worsened
    return {"improved": improved, "worsened": worsened, "unchanged": unchanged, "p_value": float(p_value)}


def accuracy(correct: int, examples: int) -> dict:
    """Share of right answers with its 95 % Wilson (1927) score interval, which also holds for few examples and near 0 or 1."""
    interval = stats.binomtest(correct, examples).proportion_ci(method="wilson")
    ci95 = [float(interval.low), float(interval.high)]
    return {"correct": correct, "examples": examples, "rate": correct / examples, "ci95": ci95}
