"""What was expected beside what was found, for every value of two results."""

import math
from dataclasses import dataclass
from typing import Any

from lorabundle.tolerances import TOLERANCES


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
        same = math.isclose(expected, found, rel_tol=relative, abs_tol=relative)
        return (
            [] if same else [Difference(where, expected, found, f"{relative:g} of it" if relative else "none: equal")]
        )
    else:
        return [] if expected == found else [Difference(where, expected, found)]
    return [difference for part in parts for difference in compare(*part, relative)]


def compare_metrics(expected: dict, found: dict) -> list[Difference]:
    """Differences of two `metrics.json` of runs with fast numerics on machines that may differ.

    The measured values (models, delta, sign_test, kinds) may differ by `TOLERANCES`, which is for the whole test split; for a
    kind with a share 1/n of the examples, by that times the square root of n, as the noise of a mean goes. All else is equal:
    what does not depend on the machine.
    """
    measured = {"models", "delta", "sign_test", "kinds"}
    rest = [{key: value for key, value in metrics.items() if key not in measured} for metrics in (expected, found)]
    result = compare("metrics.json", *rest) + compare(
        "metrics.json.kinds", sorted(expected["kinds"]), sorted(found["kinds"])
    )
    total = expected["models"]["base"]["examples"]
    for key in ("models", "delta", "sign_test"):
        result += _within(f"metrics.json.{key}", expected[key], found[key], 1.0)
    for kind, values in expected["kinds"].items():
        widened = math.sqrt(total / values["examples"])
        result += _within(f"metrics.json.kinds.{kind}", values, found["kinds"].get(kind, values), widened)
    return result


def _within(where: str, expected: Any, found: Any, widened: float) -> list[Difference]:
    """Differences of measured values; the tolerance of each is that of the last name of its path that has one."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        parts = [(f"{where}.{key}", value, found[key]) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = [(f"{where}.{index}", *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    else:
        names = [name for name in where.split(".") if name in TOLERANCES]
        if not names or not (_number(expected) and _number(found)):
            return [] if expected == found else [Difference(where, expected, found)]
        allowed = TOLERANCES[names[-1]] * widened
        return [] if abs(expected - found) <= allowed else [Difference(where, expected, found, f"{allowed:.4g}")]
    return [difference for part in parts for difference in _within(*part, widened)]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
