"""From the rows of `examples.jsonl` to the aggregates of `metrics.json`. They depend on nothing else, so anyone can recompute them."""

import math

from lorabundle.evaluation import intervals
from lorabundle.evaluation.answer_scores import SacreBleu
from lorabundle.evaluation.metrics import METRICS, Metric

MODELS = ("base", "finetuned")
COUNTS = ("tokens", "examples")
KIND_KEYS = {*COUNTS, *(metric.key for metric in METRICS.values() if metric.by_kind)}


def summarise(examples: list[dict], seed: int) -> dict:
    """The keys models, delta, bootstrap, sign_test, kinds and, for tasks with right answers, majority of metrics.json.

    Args:
        examples: rows of examples.jsonl.
        seed: of the bootstrap.
    """
    groups = {example["group"] for example in examples}
    kinds = sorted({example["kind"] for example in examples})
    return {
        **_majority(examples),
        "models": {name: model_summary(examples, name) for name in MODELS},
        "delta": {key: _difference(examples, metric, seed) for key, metric in METRICS.items() if metric.change},
        "bootstrap": {"resamples": intervals.RESAMPLES, "seed": seed, "unit": "group", "units": len(groups)},
        "sign_test": intervals.sign_test(*(_values(examples, name, "nats") for name in MODELS)),
        "kinds": {kind: kind_summary([e for e in examples if e["kind"] == kind], seed) for kind in kinds},
    }


def model_summary(examples: list[dict], name: str) -> dict:
    """The counts and METRICS of one model, in the order that metrics.json has them."""
    sizes = {"tokens": sum(example["tokens"] for example in examples), "examples": len(examples)}
    values = {
        key: sum(_values(examples, name, metric.column)) / sizes[metric.mean_over]
        for key, metric in METRICS.items()
        if metric.column
    }
    loss = values.pop("loss")
    values |= SacreBleu(keep_in_memory=True).compute(
        predictions=_values(examples, name, "text"), references=[example["reference"] for example in examples]
    )
    if "score" in examples[0][name]:
        values["accuracy"] = _accuracy(examples, name)
    ordered = {key: values[key] for key in METRICS if key in values}
    return {"loss": loss, "perplexity": math.exp(loss), **sizes, **ordered}


def kind_summary(examples: list[dict], seed: int) -> dict:
    """What metrics.json says of the examples of one kind."""
    models = {name: model_summary(examples, name) for name in MODELS}
    return {
        "examples": len(examples),
        "models": {name: {key: m[key] for key in m if key in KIND_KEYS} for name, m in models.items()},
        "delta": {"loss": _difference(examples, METRICS["loss"], seed)},
        **_majority(examples),
    }


def _majority(examples: list[dict]) -> dict[str, dict]:
    """If the task has right answers: how often the most frequent answer of the training split is right."""
    return {"majority": _accuracy(examples, "majority")} if "majority" in examples[0] else {}


def _accuracy(examples: list[dict], name: str) -> dict:
    """Share of right answers. The verifiers give part of a point for part of an answer; this counts only full points."""
    return intervals.accuracy(sum(score == 1.0 for score in _values(examples, name, "score")), len(examples))


def _values(examples: list[dict], name: str, column: str) -> list:
    return [example[name][column] for example in examples]


def _difference(examples: list[dict], metric: Metric, seed: int) -> dict:
    """Fine-tuned minus base, with its interval."""
    weights = [example["tokens"] if metric.mean_over == "tokens" else 1 for example in examples]
    groups = [example["group"] for example in examples]
    base, finetuned = (_values(examples, name, metric.column) for name in MODELS)
    return intervals.paired_difference(base, finetuned, weights, groups, seed)
