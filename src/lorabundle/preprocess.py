"""Raw data -> validated, de-duplicated, group-split, tokenised Arrow splits and a manifest.

Reads the docstrings in `data/raw/wheels/*.whl` (default) or the user's JSONL file, and the base model's tokenizer.
Writes `data/raw/docstrings.jsonl`, `data/processed/{train,val,test}/` and, last, `data/processed/manifest.json` with a copy in
`outputs/<run>/`. `data/processed/` holds the splits of one run at a time: building them takes seconds.

Run as: python -m lorabundle.preprocess --config config/default.yaml
"""

import logging
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import datasets
from datasets import Dataset, Features, List, Value

from lorabundle import artifacts, config, prompts
from lorabundle.config import Config
from lorabundle.docstrings import build_records
from lorabundle.errors import EmptySplitError, NoSupervisedTokensError
from lorabundle.locks import locked_wheels
from lorabundle.modeling import load_tokenizer
from lorabundle.records import read_records
from lorabundle.stage import Artifacts, run_stage

log = logging.getLogger("lorabundle.preprocess")

MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "id": Value("string"),
        "group": Value("string"),
        "kind": Value("string"),
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
    }
)


def split_of(group: str, val_fraction: float, test_fraction: float) -> str:
    """The split of a group: a function of its name alone, so that adding data moves nothing between splits."""
    position = int(sha256(group.encode()).hexdigest()[:8], 16) / 0x1_0000_0000
    if position < test_fraction:
        return "test"
    return "val" if position < test_fraction + val_fraction else "train"


def drop_duplicates(records: list[dict]) -> tuple[list[dict], int]:
    """Keep the first of the records with equal prompt and completion; also return how many were dropped."""
    unique: dict[str, dict] = {}
    for record in records:
        unique.setdefault(repr((record["prompt"], record["completion"])), record)
    return list(unique.values()), len(records) - len(unique)


def assign_splits(records: list[dict], settings: config.Data) -> dict[str, list[dict]]:
    """Records by split: whole groups to a split by hash, then each split cut to its limit in the order of the ids' hashes.

    Raises:
        EmptySplitError: no record fell into a split.
    """
    limits = {
        "train": settings.max_train_examples,
        "val": settings.max_val_examples,
        "test": settings.max_test_examples,
    }
    splits: dict[str, list[dict]] = {name: [] for name in config.SPLITS}
    for record in sorted(records, key=lambda record: sha256(record["id"].encode()).digest()):
        splits[split_of(record["group"], settings.val_fraction, settings.test_fraction)].append(record)
    for name, rows in splits.items():
        if not rows:
            raise EmptySplitError(
                f"The {name} split is empty: {len(records)} records in {len({r['group'] for r in records})} groups leave "
                f"none for it. Add data, or raise data.val_fraction and data.test_fraction."
            )
    return {name: rows[: limits[name]] for name, rows in splits.items()}


def tokenize(records: list[dict], tokenizer, max_length: int) -> tuple[list[dict], int]:
    """Records with `input_ids` and `labels`, cut at `max_length`; also return how many were cut.

    Raises:
        NoSupervisedTokensError: a prompt alone fills `max_length`, so no response token is left.
        TemplateError: the chat template does not allow a response mask.
    """
    rows, truncated = [], 0
    for record in records:
        encoded = prompts.encode(tokenizer, record["prompt"], record["completion"])
        truncated += len(encoded["input_ids"]) > max_length
        row = record | {key: ids[:max_length] for key, ids in encoded.items()}
        if all(label == prompts.IGNORE_INDEX for label in row["labels"]):
            raise NoSupervisedTokensError(
                f"Record {record['id']} has no token to learn from: its prompt has "
                f"{encoded['labels'].count(prompts.IGNORE_INDEX)} tokens and data.max_length is {max_length}. Raise "
                f"data.max_length, or shorten or remove the record."
            )
        rows.append(row)
    return rows, truncated


def _docstring_records(settings: config.Data) -> tuple[list[dict], list[Path]]:
    """Records of every configured package, and the wheels they come from."""
    wheels = locked_wheels(settings.packages)
    records = build_records(wheels)
    artifacts.write_jsonl(config.RAW / "docstrings.jsonl", records)
    return records, list(wheels.values())


def run(run_config: Config) -> Artifacts:
    """Build the splits and the manifest."""
    settings = run_config.data
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(run_config.model_dir)
    if settings.source == "docstrings":
        records, sources = _docstring_records(settings)
    else:
        sources = [Path(settings.source)]
        records = read_records(sources[0])
    unique, duplicates = drop_duplicates(records)
    log.info("%d records from %s, %d exact duplicates dropped", len(records), settings.source, duplicates)

    splits, truncations = {}, {}
    for name, rows in assign_splits(unique, settings).items():
        splits[name], truncations[name] = tokenize(rows, tokenizer, settings.max_length)
    manifest = {
        "schema": 1,
        "source": settings.source,
        "source_sha256": artifacts.hash_paths(sources),
        "tokenizer_sha256": artifacts.sha256_file(run_config.model_dir / "tokenizer.json"),
        "template_sha256": prompts.template_sha256(tokenizer),
        "records": len(records),
        "dropped": {"exact_duplicate": duplicates, "over_split_limit": len(unique) - sum(map(len, splits.values()))},
        "truncated": truncations,
        "splits": {},
    }
    (config.PROCESSED / "manifest.json").unlink(
        missing_ok=True
    )  # from here until it is rewritten, the splits are in flux
    for name, rows in splits.items():
        folder = config.PROCESSED / name
        with artifacts.atomic_dir(folder) as temporary:
            Dataset.from_list(rows, features=FEATURES).save_to_disk(temporary)
        manifest["splits"][name] = _describe_split(rows, folder)
        log.info(
            "%s: %s", name, {key: manifest["splits"][name][key] for key in ("examples", "tokens", "response_tokens")}
        )
    artifacts.write_json(config.PROCESSED / "manifest.json", manifest)
    copy = run_config.run_dir / "manifest.json"  # the run's own
    artifacts.write_json_if_changed(copy, manifest)
    return Artifacts(
        inputs=[*sources, run_config.model_dir / "tokenizer.json"],
        outputs=[copy, *(config.PROCESSED / name for name in (*config.SPLITS, "manifest.json"))],
    )


def _describe_split(rows: list[dict], folder: Path) -> dict:
    """A split's entry in the manifest. `sha256` is of the Arrow data, which is a function of the rows alone."""
    (arrow,) = folder.glob("*.arrow")
    return {
        "examples": len(rows),
        "groups": len({row["group"] for row in rows}),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "response_tokens": sum(label != prompts.IGNORE_INDEX for row in rows for label in row["labels"]),
        "kinds": dict(sorted(Counter(row["kind"] for row in rows).items())),
        "sha256": artifacts.sha256_file(arrow),
    }


if __name__ == "__main__":
    sys.exit(run_stage("preprocess", run))
