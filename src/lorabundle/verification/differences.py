"""What was expected beside what was found, for every value of two results."""

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
    """One value that is not what it should be; `tolerance` says how near it had to be."""

    where: str
    expected: Any
    found: Any
    tolerance: str = "none: equal"

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}, tolerance {self.tolerance}"


class Measured(NamedTuple):
    """A value of two `metrics.json`: of a metric, or a fact (None); of the base model alone; over so many examples and tokens."""

    where: str
    expected: Any
    found: Any
    metric: str | None
    of_base: bool
    sizes: dict[str, int]


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

    What was measured (models, delta, kinds) may differ as `tolerances` has it, by more if the adapter was `trained` again and the
    value is not the base model's; what follows from that alone (perplexity, counts of right answers, the sign test) is passed
    over, because it was compared with the examples. All else is equal.
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


def measured(expected: dict, found: dict) -> Iterator[Measured]:
    """What two `metrics.json` have measured, value by value, of all examples and of each kind that is in both."""
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
