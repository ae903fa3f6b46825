"""What was expected beside what was found, for every value of two results."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorabundle.tolerances import APART, SIZES, allowed, allowed_nats

MEASURED = ("models", "delta", "kinds")
DERIVED = ("perplexity", "correct")


@dataclass(frozen=True)
class Difference:
    """One value that is not what it should be; `tolerance` says how near it had to be."""

    where: str
    expected: Any
    found: Any
    tolerance: str = "none: equal"

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}, tolerance {self.tolerance}"


def compare(where: str, expected: Any, found: Any, relative: float = 0.0) -> list[Difference]:
    """Differences of two JSON values, leaf by leaf; numbers may differ by a share of their size."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        parts = [(f"{where}.{key}", expected.get(key, "nothing"), found.get(key, "nothing")) for key in keys]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = [(f"{where}.{index}", *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    elif _number(expected) and _number(found):
        # Sums may cancel to nearly 0; a p-value just is that small
        least = 0.0 if where.endswith("p_value") else relative
        same = math.isclose(expected, found, rel_tol=relative, abs_tol=least)
        return (
            [] if same else [Difference(where, expected, found, f"{relative:g} of it" if relative else "none: equal")]
        )
    else:
        return [] if expected == found else [Difference(where, expected, found)]
    return [difference for part in parts for difference in compare(*part, relative)]


def compare_metrics(expected: dict, found: dict, trained: bool) -> list[Difference]:
    """Differences of two `metrics.json` of runs with fast numerics, on machines that may differ.

    What was measured (models, delta, kinds) may differ as `tolerances` has it, by more where the adapter was `trained` again and
    the base model is not meant alone; what follows from that alone (perplexity, counts of right answers, the sign test) is passed
    over, because it was compared with the examples. All else is equal.
    """
    rest = [{k: v for k, v in metrics.items() if k not in {*MEASURED, "sign_test"}} for metrics in (expected, found)]
    result = compare("metrics.json", *rest)
    for where, one, other, name, sizes in measured(expected, found):
        if name and _number(one) and _number(other):
            tolerance = allowed(name, sizes, trained and not of_base(where))
            if not abs(one - other) <= tolerance:
                result.append(Difference(where, one, other, f"{tolerance:.4g}"))
        elif one != other:
            result.append(Difference(where, one, other))
    return result


def compare_examples(expected: list[dict], found: list[dict], trained: bool) -> list[Difference]:
    """Differences of two `examples.jsonl` of runs with fast numerics, on machines that may differ.

    What follows from the splits is equal; the nats of an example may differ as `tolerances` has it, and those of an adapter that was
    `trained` again are not compared one by one. Answers may be others, and their scores with them: these are compared as means, in
    the metrics.
    """
    facts = ("id", "group", "kind", "prompt", "reference", "tokens")
    result = compare(
        "examples.jsonl", *([{key: row[key] for key in facts} for row in rows] for rows in (expected, found))
    )
    for one, other in [] if result else zip(expected, found, strict=True):
        tolerance = allowed_nats(one["tokens"])
        for model in ("base",) if trained else ("base", "finetuned"):
            nats = one[model]["nats"], other[model]["nats"]
            if not abs(nats[0] - nats[1]) <= tolerance:
                result.append(Difference(f"examples.jsonl, {one['id']}.{model}.nats", *nats, f"{tolerance:.4g}"))
    return result


def measured(expected: dict, found: dict) -> Iterator[tuple[str, Any, Any, str | None, dict[str, int]]]:
    """What two `metrics.json` have measured, value by value.

    Yields (where, expected, found, the metric or None for a fact, {"examples", "tokens"} that it was taken over).
    """
    for key in MEASURED:
        yield from _leaves(f"metrics.json.{key}", expected[key], found[key], expected["models"]["base"])


def of_base(where: str) -> bool:
    """Whether a value of `metrics.json` is the base model's alone, which no training changes."""
    return ".models.base." in where


def _leaves(where: str, expected: Any, found: Any, sizes: dict[str, int]) -> Iterator:
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        counts = expected["models"]["base"] if "models" in expected else expected
        sizes = {name: counts.get(name, sizes[name]) for name in SIZES}
        parts = [(key, value, found[key]) for key, value in expected.items() if key not in DERIVED]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = [(index, *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    else:
        names = [name for name in where.split(".") if name in APART]
        yield where, expected, found, names[-1] if names else None, sizes
        return
    for key, one, other in parts:
        yield from _leaves(f"{where}.{key}", one, other, sizes)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
