"""By how much a metric may differ between two runs of one config that need not give the same bytes.

With portable numerics nothing may differ, and this module is not used. With fast numerics another CPU adds in another order, with
other instructions, or in another dtype. If it evaluates the same weights, losses change a little, and a greedy answer changes from
its first other token on. If it trains, the difference grows from step to step, so an adapter trained there differs by more.
"""

import math

from lorabundle.evaluation.metrics import METRICS, Tolerance

TOLERANCES = {key: metric.tolerance for key, metric in METRICS.items() if isinstance(metric.tolerance, Tolerance)}
SIZES = {"examples": 200, "tokens": 7800}  # of default.yaml's test split, which the tolerances are stated for
# Nats of one example divided by the square root of its tokens, since independent errors add up like that; same weights. default.yaml: 0.319
NATS = 0.441
FACTOR = 2  # what may differ, divided by what was measured: there are more configs and CPUs than the two and the one measured


def widened(name: str, sizes: dict[str, int]) -> float:
    """The factor by which a metric's tolerance grows over fewer than SIZES, as the noise of a mean does.

    Args:
        name: key of the metric.
        sizes: number of "examples" and "tokens".
    """
    over = METRICS[name].mean_over
    return math.sqrt(max(1.0, SIZES[over] / sizes[over]))


def allowed(name: str, sizes: dict[str, int], trained: bool) -> float:
    """By how much a metric over so many examples and tokens may differ.

    Args:
        name: key of the metric.
        sizes: number of "examples" and "tokens".
        trained: whether the adapter was trained again; else the same weights were evaluated.
    """
    tolerance = TOLERANCES[name].trained if trained else TOLERANCES[name].evaluated
    return FACTOR * tolerance * widened(name, sizes)


def allowed_nats(num_response_tokens: int) -> float:
    """By how much the nats of one example may differ if the same weights were evaluated."""
    return FACTOR * NATS * math.sqrt(num_response_tokens)
