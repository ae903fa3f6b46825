"""Raw data -> validated, de-duplicated, grouped, tokenised Arrow splits and a manifest.

Reads the base model's tokenizer and one dataset: docstrings (the default) or tasks from `data/raw/wheels/*.whl`, the user's
files, or a dataset that fetch downloaded. Writes `data/processed/{train,val,test}/` and, last, `data/processed/manifest.json`
with a copy in `outputs/<run>/`; also `data/raw/<source>.jsonl` for records built from wheels, and
`outputs/<run>/quarantine.jsonl` if there are rows that cannot be used. `data/processed/` holds the splits of one run at a
time: building them takes seconds. Rows are read one at a time and kept on disk, so that memory does not grow with the data.

Run as: python -m lorabundle.preprocess --config config/default.yaml
"""

import logging
import sys
from pathlib import Path

from datasets import Dataset, Features

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_dir, hash_paths, scratch_dir, sha256_file, write_json, write_json_if_changed
from lorabundle.core.locks import locked_wheels
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.data.manifest import describe_split, lengths, wheel_licences
from lorabundle.data.pipeline import Prepared, cut, listed, on_disk, prepare
from lorabundle.data.preview import segments, shortened
from lorabundle.data.quarantine import Quarantine
from lorabundle.model import prompts
from lorabundle.model.architecture import load_tokenizer

log = logging.getLogger("lorabundle.preprocess")

MOST_CHARACTERS = 800  # of a segment of the row that the data card shows
MANIFEST = config.PROCESSED / "manifest.json"


def run(run_config: Config) -> Artifacts:
    """Build the splits and the manifest."""
    settings = run_config.data
    tokenizer = load_tokenizer(run_config.model_dir)
    quarantine = Quarantine(run_config.run_dir / "quarantine.jsonl", settings.on_error)
    with scratch_dir(config.PROCESSED / ".rows") as scratch:
        prepared = prepare(run_config, tokenizer, quarantine, scratch)
        manifest = describe_inputs(run_config, prepared, tokenizer) | {
            "records": prepared.num_rows,
            "quarantined": prepared.quarantined,
            "dropped": prepared.dropped,
            "own_splits": prepared.own_splits,
            "notes": prepared.notes.listed(),
            "warnings": prepared.warnings,
            "truncated": count_truncated(prepared.splits, settings.max_length),
            "duplicates": prepared.duplicates,
            "lengths": lengths(prepared.splits),
        }
        manifest["example"] = first_row(prepared, tokenizer, settings.max_length)
        manifest["splits"] = write_splits(prepared.splits, prepared.features, settings.max_length, scratch)
    write_json(MANIFEST, manifest)
    copy = run_config.run_dir / "manifest.json"  # the run's own
    write_json_if_changed(copy, manifest)
    outputs = [copy, *(config.PROCESSED / name for name in config.SPLITS), MANIFEST]
    return Artifacts(
        inputs=[*prepared.source.files, run_config.model_dir / "tokenizer.json"],
        outputs=[*outputs, quarantine.path] if prepared.quarantined["file"] else outputs,
    )


def describe_inputs(run_config: Config, prepared: Prepared, tokenizer) -> dict:
    """The manifest's first part: what the splits are made from."""
    source = prepared.source
    licences = dict(source.licences)
    if run_config.model.source == "wheel":
        licences |= wheel_licences(locked_wheels([run_config.model.path]))
    return {
        "schema": 1,
        "source": run_config.data.source_name,
        "format": source.format,
        "source_sha256": hash_paths(source.files),
        "licences": licences,
        "tokenizer_sha256": sha256_file(run_config.model_dir / "tokenizer.json"),
        "template_sha256": prompts.template_sha256(tokenizer),
    }


def first_row(prepared: Prepared, tokenizer, max_length: int) -> list[dict]:
    """The first training row as the model sees it, in segments that are learnt or not, for the data card."""
    row = prepared.splits["train"][0]
    parts = segments(tokenizer, row["input_ids"][:max_length], row["labels"][:max_length])
    return [segment._asdict() for segment in shortened(parts, MOST_CHARACTERS)]


def count_truncated(splits: dict[str, Dataset], max_length: int) -> dict[str, int]:
    """Number of rows of each split that are longer than `max_length` tokens, and will be cut."""
    return {name: sum(len(row["input_ids"]) > max_length for row in rows) for name, rows in splits.items()}


def write_splits(splits: dict[str, Dataset], features: Features, max_length: int, scratch: Path) -> dict[str, dict]:
    """Cut the rows of each split and write them to `data/processed/`; returns the manifest's entry of each."""
    MANIFEST.unlink(missing_ok=True)  # it must not describe splits that are being replaced; `run` writes the new one
    entries = {}
    for name, uncut in splits.items():
        rows = on_disk(cut(uncut, max_length), scratch / f"{name}-cut.arrow", features)
        folder = config.PROCESSED / name
        with atomic_dir(folder) as temporary:
            rows.save_to_disk(temporary)
        entries[name] = describe_split(rows, folder)
        log.info("%s: %s", name, listed({key: entries[name][key] for key in ("examples", "tokens", "response_tokens")}))
    return entries


if __name__ == "__main__":
    sys.exit(run_stage("preprocess", run))
