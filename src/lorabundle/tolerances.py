"""By how much a metric may differ between two runs of one config, where the same bytes are not promised.

With portable numerics nothing may differ and this table is not used. With fast numerics another CPU adds up in another order, with
other instructions, or in another dtype; training carries that on from step to step, and greedy answers change at the first
token that does.
"""

import math

EXAMPLES = 200  # of the test split that the table is for
# MEASURED
TOLERANCES: dict[str, float] = {
    "loss": 0.01,  # nats a token
    "token_accuracy": 0.005,
    "rouge1": 0.02,
    "rouge2": 0.02,
    "rougeL": 0.02,
    "bleu": 2.0,  # 0 to 100
    "chrf": 2.0,  # 0 to 100
    "exact_match": 0.02,
    "stop_rate": 0.03,
    "length_ratio": 0.1,
    "repetition_rate": 0.03,
    "accuracy": 0.03,  # the rate of right answers, where the task has them
}


def allowed(name: str, examples: int) -> float:
    """The tolerance of a metric over so many examples: for fewer than the table is for, wider, as the noise of a mean goes."""
    return TOLERANCES[name] * math.sqrt(max(1.0, EXAMPLES / examples))
