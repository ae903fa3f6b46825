"""The files of a finished run that the report reads."""

from dataclasses import dataclass
from pathlib import Path

from lorabundle.core.config import Config
from lorabundle.core.files import read_json, read_jsonl
from lorabundle.core.stage import STAGES
from lorabundle.core.strict_json import Fields

RECORDED = STAGES[: STAGES.index("report")]  # the stages whose records the report reads
OBJECTS = {name: f"{name}.json" for name in ("metrics", "manifest", "provenance", "environment")}
ROWS = {"samples": "samples.jsonl", "examples": "examples.jsonl", "train_log": "train_log.jsonl"}


@dataclass(frozen=True)
class Results:
    """The files of a finished run, parsed: JSON objects, the stages' records by stage, and rows."""

    metrics: Fields
    manifest: Fields
    provenance: Fields
    environment: Fields
    records: dict[str, Fields]
    samples: list[Fields]
    examples: list[Fields]
    train_log: list[Fields]


def input_paths(run_config: Config) -> list[Path]:
    """The files that `load_results` reads."""
    files = [run_config.run_dir / name for name in (OBJECTS | ROWS).values()]
    return [*files, *map(run_config.record_path, RECORDED)]


def load_results(run_config: Config) -> Results:
    """Read the run's files.

    Raises:
        MissingInputError: one is not there.
        MalformedInputError: one cannot be parsed.
    """
    folder = run_config.run_dir
    remedy = f"Run `make all CONFIG=...` for run {run_config.run}: the report needs the files of every earlier stage."
    objects = {name: Fields(read_json(folder / file, remedy), file) for name, file in OBJECTS.items()}
    rows = {
        name: [Fields(row, f"{file}:{n}") for n, row in enumerate(read_jsonl(folder / file, remedy), start=1)]
        for name, file in ROWS.items()
    }
    records = {
        stage: Fields(read_json(run_config.record_path(stage), remedy), f"stages/{stage}.json") for stage in RECORDED
    }
    return Results(**objects, **rows, records=records)
