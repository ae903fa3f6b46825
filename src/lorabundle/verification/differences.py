"""Differences between two results, value by value, with the tolerances of fast numerics."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorabundle.evaluation.metrics import METRICS
from lorabundle.evaluation.tolerances import SIZES, TOLERANCES, allowed, allowed_nats

MEASURED = ("models", "delta", "kinds")
DERIVED = {"correct", *METRICS} - {*TOLERANCES}  # computed from other values


@dataclass(frozen=True)
class Difference:
    """One value that is not what it should be; `tolerance` says by how much it may differ."""

    where: str
    expected: Any
    found: Any
    tolerance: str = "none"

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}, tolerance {self.tolerance}"


class Measured(NamedTuple):
    """A value in two `metrics.json`: its metric (None for a fact), whether only the base model decides it, and its sizes.

    `sizes` are the numbers of examples and tokens that the value is a mean over.
    """

    where: str
    expected: Any
    found: Any
    metric: str | None
    of_base: bool
    sizes: dict[str, int]


def compare(where: str, expected: Any, found: Any, relative: float = 0.0) -> list[Difference]:
    """Differences of two JSON values, leaf by leaf. Numbers may differ by the share `relative` of their size."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        parts = [(f"{where}.{key}", expected.get(key, "nothing"), found.get(key, "nothing")) for key in keys]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = [(f"{where}.{index}", *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    elif _number(expected) and _number(found):
        # Sums may cancel to nearly 0, but a p-value can really be that small
        least = 0.0 if where.endswith("p_value") else relative
        same = math.isclose(expected, found, rel_tol=relative, abs_tol=least)
        return (
            [] if same else [Difference(where, expected, found, f"{relative:g} of the value" if relative else "none")]
        )
    else:
        return [] if expected == found else [Difference(where, expected, found)]
    return [difference for part in parts for difference in compare(*part, relative)]


def compare_metrics(expected: dict, found: dict, trained: bool) -> list[Difference]:
    """Differences of two `metrics.json` of runs with fast numerics, on machines that may differ.

    Measured values (models, delta, kinds) may differ by the tolerances, and by more if the adapter was `trained` again and the value is
    not only of the base model. Values that follow from these (perplexity, counts of right answers, the sign test) are skipped, because
    they were compared with the examples. All other values must be equal.
    """
    rest = [{k: v for k, v in metrics.items() if k not in {*MEASURED, "sign_test"}} for metrics in (expected, found)]
    rest = [values | {"kinds": list(metrics["kinds"])} for values, metrics in zip(rest, (expected, found), strict=True)]
    result = compare("metrics.json", *rest)
    for value in measured(expected, found):
        if value.metric and _number(value.expected) and _number(value.found):
            tolerance = allowed(value.metric, value.sizes, trained and not value.of_base)
            if not abs(value.expected - value.found) <= tolerance:
                result.append(Difference(value.where, value.expected, value.found, f"{tolerance:.4g}"))
        elif value.expected != value.found:
            result.append(Difference(value.where, value.expected, value.found))
    return result


def compare_examples(expected: list[dict], found: list[dict], trained: bool) -> list[Difference]:
    """Differences of two `examples.jsonl` of runs with fast numerics, on machines that may differ.

    Values that follow from the splits must be equal. The nats of an example may differ by the tolerance; those of an adapter that was
    `trained` again are not compared one by one. Answers may differ, and with them their scores: their means are compared, in the
    metrics.
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


def measured(expected: dict, found: dict) -> Iterator[Measured]:
    """The measured values of two `metrics.json`, one by one: of all examples, and of each kind that both have."""
    groups = {"metrics.json": [{key: metrics[key] for key in ("models", "delta")} for metrics in (expected, found)]}
    for kind in expected["kinds"].keys() & found["kinds"].keys():
        groups[f"metrics.json.kinds.{kind}"] = [metrics["kinds"][kind] for metrics in (expected, found)]
    for group, pair in sorted(groups.items()):
        sizes = {name: pair[0]["models"]["base"][name] for name in SIZES}
        for path, one, other in _leaves((), *pair):
            metric = next((name for name in path if name in TOLERANCES), None)
            yield Measured(".".join((group, *path)), one, other, metric, path[:2] == ("models", "base"), sizes)


def _leaves(path: tuple[str, ...], expected: Any, found: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        for key in expected:
            if key not in DERIVED:
                yield from _leaves((*path, key), expected[key], found[key])
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found, strict=True)):
            yield from _leaves((*path, str(index)), *pair)
    else:
        yield path, expected, found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
