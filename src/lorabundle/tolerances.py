"""By how much a metric may differ between two runs of one config, where the same bytes are not promised.

With portable numerics nothing may differ and this table is not used. With fast numerics another CPU adds up in another order, with
other instructions, or in another dtype; training carries that on from step to step, and greedy answers change at the first
token that does.
"""

import math

# Twice the largest difference between two default runs that are as far apart as fast numerics allow: bfloat16 with AVX-512, and float32
# with the libraries kept to AVX2, in which every product and every sum is another (2026-11-23, AMD EPYC Zen 4, two threads, one
# seed). Kinds of examples count too, theirs divided by the factor that `allowed` widens by.
EXAMPLES = 200  # of that test split
TOLERANCES: dict[str, float] = {
    "loss": 0.008,  # nats a token; 0.0021 apart over the split, at most 0.0039 in a kind
    "token_accuracy": 0.008,  # 0.0019 and 0.0037
    "rouge1": 0.02,  # rougeL: 0.0026 and 0.0093, and the others are no further apart
    "rouge2": 0.02,
    "rougeL": 0.02,
    "bleu": 1.0,  # 0 to 100; 0.49
    "chrf": 1.3,  # 0 to 100; 0.61
    "exact_match": 0.01,  # two answers, where none differed
    "stop_rate": 0.03,  # 0.015: three answers
    "length_ratio": 0.04,  # 0.019
    "repetition_rate": 0.033,  # 0.0164
    "accuracy": 0.02,  # not measured: four answers of 200
}
# Nats of one example, by the root of its tokens, as errors that are independent add up: twice the largest difference of those 200, 0.319
NATS = 0.64


def allowed(name: str, examples: int) -> float:
    """The tolerance of a metric over so many examples: for fewer than the table is for, wider, as the noise of a mean goes."""
    return TOLERANCES[name] * math.sqrt(max(1.0, EXAMPLES / examples))


def allowed_nats(tokens: int) -> float:
    """The tolerance of the nats of one example with so many response tokens."""
    return NATS * math.sqrt(tokens)
