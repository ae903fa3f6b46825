"""By how much a metric may differ between two runs of one config, where the same bytes are not promised.

With portable numerics nothing may differ and this table is not used. With fast numerics another CPU adds up in another order, with
other instructions, or in another dtype. Where the same weights are evaluated there, that moves losses a little, and greedy answers from
the first token that changes; training carries it on from step to step, so an adapter that was trained there is further away.
"""

import math
from typing import NamedTuple


class Apart(NamedTuple):
    """The largest difference found in a metric: the same weights evaluated by both, or an adapter trained by each."""

    evaluated: float
    trained: float
    over: str = "examples"  # what the metric is a mean over


# Runs that are as far apart as fast numerics allow: bfloat16 with AVX-512, and float32 with the libraries kept to AVX2, in which every
# product and every sum is another. AMD EPYC Zen 4, two threads, one seed, default.yaml (2026-11-23 and -24) and reasoning.yaml
# (2026-11-24, learning rate and steps as there); the larger of the two configs counts. Kinds of examples and the ends of
# intervals count too, each divided by the factor that `widened` gives; an adapter that was trained again is also evaluated again, so
# that its figure is at least the other. Made with tests/bench/tolerances.py.
SIZES = {"examples": 200, "tokens": 7800}  # default.yaml's test split
APART: dict[str, Apart] = {
    "loss": Apart(0.0072, 0.0161, "tokens"),  # nats a token; of default.yaml 0.0028 and 0.0039
    "token_accuracy": Apart(0.0038, 0.0044, "tokens"),
    "rouge1": Apart(0.0085, 0.0093),
    "rouge2": Apart(0.0040, 0.0093),
    "rougeL": Apart(0.0129, 0.0272),  # of default.yaml 0.0069 and 0.0093
    "bleu": Apart(0.40, 2.56, "tokens"),  # 0 to 100; of default.yaml 0.40 and 0.49
    "chrf": Apart(0.48, 0.61, "tokens"),  # 0 to 100
    "exact_match": Apart(0.0102, 0.0396),  # of default.yaml, which hardly has any: 0
    "stop_rate": Apart(0.0367, 0.0367),
    "length_ratio": Apart(0.150, 0.150, "tokens"),  # of a base model that goes on and on; of an adapter 0.009 and 0.026
    "repetition_rate": Apart(0.0043, 0.0164),
    "accuracy": Apart(0.0140, 0.0423),  # reasoning.yaml alone has it
}
NATS = 0.441  # of one example, by the root of its tokens, as errors that are independent add up; only evaluated; default.yaml 0.319
FACTOR = 2  # two configs on one CPU are not all that there is


def widened(name: str, sizes: dict[str, int]) -> float:
    """By what factor more a metric may differ that is taken over fewer {"examples", "tokens"}, as the noise of a mean goes."""
    over = APART[name].over
    return math.sqrt(max(1.0, SIZES[over] / sizes[over]))


def allowed(name: str, sizes: dict[str, int], trained: bool) -> float:
    """The tolerance of a metric over so many {"examples", "tokens"}, of an adapter that was `trained` again or of the same weights."""
    apart = APART[name].trained if trained else APART[name].evaluated
    return FACTOR * apart * widened(name, sizes)


def allowed_nats(tokens: int) -> float:
    """The tolerance of the nats of one example with so many response tokens, the weights being the same."""
    return FACTOR * NATS * math.sqrt(tokens)
