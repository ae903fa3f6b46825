"""By how much a metric may differ between two runs of one config, where the same bytes are not promised.

In portable numerics, and in fast numerics on the same CPU model, with the same number of threads and the same environment,
nothing may differ and this table is not used. Elsewhere another CPU adds up in another order or with other instructions;
training carries that on from step to step, so a fine-tuned model may move more than a base model.
"""

# Absolute, of base and fine-tuned model alike; `train_loss` is of the last step that train_log.jsonl logs.
# MEASURE: to be replaced by twice the largest difference seen between CPUs, once that is measured.
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
    "train_loss": 0.05,  # nats a token
}
