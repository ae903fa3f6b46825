"""From the rows of `examples.jsonl` to the aggregates of `metrics.json`: nothing else goes in, so anyone can recompute them."""

import math

from lorabundle.evaluation import intervals, metrics

MODELS = ("base", "finetuned")
ROUGE = metrics.ROUGE_TYPES
KIND_KEYS = ("loss", "tokens", "examples", "token_accuracy", "rougeL", "exact_match", "accuracy")


def summarise(examples: list[dict], seed: int) -> dict:
    """The keys models, delta, bootstrap, sign_test, kinds and, for tasks with right answers, majority of metrics.json.

    Args:
        examples: rows of examples.jsonl.
        seed: of the bootstrap.
    """
    groups = {example["group"] for example in examples}
    kinds = {}
    for kind in sorted({example["kind"] for example in examples}):
        members = [example for example in examples if example["kind"] == kind]
        models = {name: model_summary(members, name) for name in MODELS}
        kept = {name: {key: value for key, value in m.items() if key in KIND_KEYS} for name, m in models.items()}
        delta = {"loss": _difference(members, seed, "nats", "tokens")}
        kinds[kind] = {"examples": len(members), "models": kept, "delta": delta, **_majority(members)}
    return {
        **_majority(examples),
        "models": {name: model_summary(examples, name) for name in MODELS},
        "delta": {
            "loss": _difference(examples, seed, "nats", "tokens"),
            "token_accuracy": _difference(examples, seed, "correct", "tokens"),
            "rougeL": _difference(examples, seed, "rougeL"),
        },
        "bootstrap": {"resamples": intervals.RESAMPLES, "seed": seed, "unit": "group", "units": len(groups)},
        "sign_test": intervals.sign_test(*(_values(examples, name, "nats") for name in MODELS)),
        "kinds": kinds,
    }


def model_summary(examples: list[dict], name: str) -> dict:
    """The `M` of metrics.json for one model. Loss and token accuracy are per token, all else per example or per corpus."""
    tokens = sum(example["tokens"] for example in examples)
    loss = sum(_values(examples, name, "nats")) / tokens
    corpus = metrics.SacreBleu(keep_in_memory=True).compute(
        predictions=_values(examples, name, "text"), references=[example["reference"] for example in examples]
    )

    def mean(key: str) -> float:
        return sum(_values(examples, name, key)) / len(examples)

    result = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "tokens": tokens,
        "examples": len(examples),
        "token_accuracy": sum(_values(examples, name, "correct")) / tokens,
        **{key: mean(key) for key in ROUGE},
        **corpus,
        "exact_match": mean("exact_match"),
        "stop_rate": mean("stopped"),
        "repetition_rate": mean("repetition_rate"),
    }
    return result | ({"accuracy": _accuracy(examples, name)} if "score" in examples[0][name] else {})


def _majority(examples: list[dict]) -> dict[str, dict]:
    """Right answers of always giving the training split's most frequent one, where there are right answers."""
    return {"majority": _accuracy(examples, "majority")} if "majority" in examples[0] else {}


def _accuracy(examples: list[dict], name: str) -> dict:
    """The verifiers give part of a point for part of an answer; only a right answer counts here."""
    return intervals.accuracy(sum(score == 1.0 for score in _values(examples, name, "score")), len(examples))


def _values(examples: list[dict], name: str, key: str) -> list:
    return [example[name][key] for example in examples]


def _difference(examples: list[dict], seed: int, key: str, weight: str | None = None) -> dict:
    """Fine-tuned minus base of one column, per unit of `weight`, or per example."""
    weights = [example[weight] if weight else 1 for example in examples]
    groups = [example["group"] for example in examples]
    return intervals.paired_difference(*(_values(examples, name, key) for name in MODELS), weights, groups, seed)
