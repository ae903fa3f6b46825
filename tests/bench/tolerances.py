"""Measure by how much two runs of one config differ: the tolerances in `lorabundle.evaluation.metrics` come from this.

Prints the largest difference of each metric and where it was, first for the base model, then for everything else. A difference over
fewer examples or tokens than `tolerances.SIZES` is divided by the factor by which its tolerance is wider.
The second run trained again, or only evaluated the first run's adapter (outputs/.verify/eval after `make verify LEVEL=eval`).

Run as: python -m tests.bench.tolerances FOLDER FOLDER   (each like outputs/phi-3)
"""

import sys
from pathlib import Path

from lorabundle.core.files import read_json, read_jsonl
from lorabundle.evaluation.tolerances import widened
from lorabundle.verification.differences import measured


def main(shipped: Path, found: Path) -> None:
    """Print a line for each metric, for the base model and for everything else; then the nats of single examples."""
    largest: dict[tuple[str, bool], tuple[float, str]] = {}
    for value in measured(*(read_json(run / "metrics.json", "") for run in (shipped, found))):
        if value.metric and isinstance(value.expected, float):
            key = value.metric, value.of_base
            difference = abs(value.expected - value.found) / widened(value.metric, value.sizes)
            largest[key] = max(largest.get(key, (0.0, "")), (difference, value.where))
    for (name, base), (difference, where) in sorted(largest.items()):
        print(f"{'base' if base else 'adapter'} {name}: {difference:.4g} ({where})")
    rows = zip(*(read_jsonl(run / "examples.jsonl", "") for run in (shipped, found)), strict=True)
    nats = {"base": 0.0, "finetuned": 0.0}
    for one, other in rows:
        for model in nats:
            nats[model] = max(nats[model], abs(one[model]["nats"] - other[model]["nats"]) / one["tokens"] ** 0.5)
    print(f"nats of an example, divided by the root of its tokens: {nats}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
