"""From the configured dataset to the rows of each split, in memory and on a scratch disk. Nothing of the run is written."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable

from lorabundle.core.config import Config
from lorabundle.core.files import read_json, writable
from lorabundle.data.duplicates import HELD_OUT, Deduplicated, deduplicate, remaining_pairs
from lorabundle.data.encoding import encode_rows
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine
from lorabundle.data.sources import Source, read_source
from lorabundle.data.splits import assign_splits, limited, own_splits
from lorabundle.model import prompts

log = logging.getLogger("lorabundle.preprocess")

FEW_GROUPS = 30  # below, a bootstrap over groups gives intervals that are too narrow to trust

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
# Of rows with tools, or with turns that are not learnt (see prompts.packed)
EXTRA = {"role": Value("string"), "content": Value("string"), "extra": Value("string")}
FULL_FEATURES = Features(FEATURES | {"prompt": List(EXTRA), "completion": List(EXTRA), "tools": Value("string")})
SCRATCH_FEATURES = Features(FULL_FEATURES | {"split": Value("string")})


@dataclass(frozen=True)
class Prepared:
    """The rows of each split, not yet cut, and what became of the others.

    Attributes:
        source: what was read.
        num_rows: number of rows that were read.
        quarantined: the manifest's entry on rows that cannot be used.
        dropped: number of rows that were left out, by cause.
        own_splits: the splits that the user's data has.
        splits: the rows of each split, with their merged groups.
        features: of the rows.
        duplicates: the manifest's entry on equal and near texts.
        notes: what was changed or not used.
        warnings: sentences for the log and the report.
    """

    source: Source
    num_rows: int
    quarantined: dict
    dropped: dict[str, int]
    own_splits: list[str]
    splits: dict[str, Dataset]
    features: Features
    duplicates: dict
    notes: Notes
    warnings: list[str]


def prepare(run_config: Config, tokenizer, quarantine: Quarantine, scratch: Path) -> Prepared:
    """Read, check, encode, de-duplicate and split the dataset. Rows are read one at a time and kept on disk.

    Args:
        run_config: of the run.
        tokenizer: of the base model.
        quarantine: collects the rows that cannot be used.
        scratch: folder for the rows, which the result's splits are read from.

    Raises:
        LorabundleError: the dataset cannot be used; see the modules of this package.
    """
    settings = run_config.data
    datasets.disable_progress_bars()
    notes = Notes()
    source = read_source(settings, quarantine, notes)
    columns = source.format["columns"]
    usable = encode_rows(source.records, tokenizer, settings.max_length, quarantine, columns, notes)
    encoded = on_disk(map(_packed, usable), scratch / "encoded.arrow", SCRATCH_FEATURES)
    num_rows = len(encoded) + len(quarantine.rows) + sum(notes.left_out.values())
    quarantined = quarantine.close(num_rows)
    if quarantined["rows"]:
        log.warning("%d of %d rows left out, see %s", quarantined["rows"], num_rows, quarantined["file"])
    for note in notes.listed():
        log.info("%s: %d", note["note"], note["rows"])
    unique = deduplicate(encoded, settings.near_duplicate_threshold)
    dropped = dict(notes.left_out) | unique.dropped
    log.info("%d rows read from %s; dropped: %s", num_rows, settings.source_name, listed(dropped))
    stated = list(encoded["split"])
    own = own_splits(stated)
    lost = {"that cannot be used": quarantined["rows"]} | dropped
    assigned = assign_splits(list(encoded["id"]), stated, unique.groups, settings, lost)
    kept, warnings = limited(assigned, own, settings)
    features = FULL_FEATURES if _needs_extra(encoded) else FEATURES
    splits = {
        name: on_disk(_rows(encoded, indices, unique.groups, features), scratch / f"{name}.arrow", features)
        for name, indices in kept.items()
    }
    duplicates = _duplicates(unique, splits, settings.near_duplicate_threshold)
    warnings = [
        *_leaks(unique.dropped, num_train=sum(split not in HELD_OUT for split in stated)),
        *warnings,
        *_shortcomings(run_config, splits),
    ]
    for warning in warnings:
        log.warning("%s", warning)
    return Prepared(
        source,
        num_rows,
        quarantined,
        dropped | {"over_split_limit": len(unique.groups) - sum(map(len, splits.values()))},
        own,
        splits,
        features,
        duplicates,
        notes,
        warnings,
    )


def _packed(record: dict) -> dict:
    """A record as a row of the scratch file."""
    messages = {part: [prompts.packed(message) for message in record[part]] for part in ("prompt", "completion")}
    tools = json.dumps(record["tools"]) if "tools" in record else None
    return record | messages | {"tools": tools}


def _needs_extra(encoded: Dataset) -> bool:
    """Whether any row has tools, or a message with more than its role and text."""
    columns = [
        pc.struct_field(pc.list_flatten(encoded.data.column(part)), "extra") for part in ("prompt", "completion")
    ]
    return any(column.null_count < len(column) for column in (encoded.data.column("tools"), *columns))


def _rows(encoded: Dataset, indices: list[int], groups: dict[int, str], features: Features) -> Iterator[dict]:
    for index in indices:
        row = encoded[index]
        if features is FEATURES:
            for part in ("prompt", "completion"):
                row[part] = [{key: message[key] for key in ("role", "content")} for message in row[part]]
        yield {key: row[key] for key in features} | {"group": groups[index]}


def _duplicates(unique: Deduplicated, splits: dict[str, Dataset], threshold: float) -> dict:
    """The manifest's entry on equal and near texts; logs those that are in two splits."""
    after, remaining = remaining_pairs(splits, threshold, unique.frequent)
    # After grouping, these are answers that are too short to tell rows apart, or the user's own val and test
    if remaining:
        counts = ", ".join(
            f"{n['exact']} equal and {n['near']} near in {column}" for column, n in after["across"].items()
        )
        pairs = [f"{p['a']['id']} ({p['a']['split']}) and {p['b']['id']} ({p['b']['split']})" for p in remaining[:3]]
        log.warning(
            "pairs of similar rows in different splits: %s; for example %s; manifest.json lists more",
            counts,
            "; ".join(pairs),
        )
    return {"threshold": threshold, "before": unique.pairs, "after": after, "remaining": remaining}


def _leaks(dropped: dict[str, int], num_train: int) -> list[str]:
    counts = {name: dropped.get(f"in_{split}_too", 0) for split, name in (("val", "validation"), ("test", "test"))}
    return [
        f"{count:,} of {num_train:,} training rows were also in your {name} set, equal or nearly so; they were removed from train."
        for name, count in counts.items()
        if count
    ]


def _shortcomings(run_config: Config, splits: dict[str, Dataset]) -> list[str]:
    """What the rows and splits cannot give: texts beyond the model's positions, differences that few rows cannot show."""
    warnings = []
    model = read_json(run_config.model_dir / "config.json", "Run `make fetch` first.")
    positions, max_length = model["max_position_embeddings"], run_config.data.max_length
    lengths = [len(ids) for rows in splits.values() for ids in rows["input_ids"]]
    longest, num_longer = max(lengths), sum(length > positions for length in lengths)
    if max_length > positions:
        warnings.append(
            f"data.max_length is {max_length:,}, but the model was made for {positions:,} positions. Beyond them its answers cannot be "
            f"relied on. Set data.max_length to at most {positions}."
        )
    if num_longer:
        warnings.append(
            f"{num_longer:,} of {len(lengths):,} rows are longer than the model's {positions:,} positions: the longest has {longest:,} "
            f"tokens, and data.max_length keeps {min(longest, max_length):,} of them."
        )
    num_groups = len(set(splits["test"]["group"]))
    if num_groups < FEW_GROUPS:
        warnings.append(
            f"The test split has only {num_groups} group{'s' if num_groups > 1 else ''} of rows. With fewer than {FEW_GROUPS}, "
            f"intervals are rough, and a small change of the loss or of the accuracy cannot be told from chance. Add test rows to "
            f"show one."
        )
    return warnings


def listed(counts: dict[str, int]) -> str:
    """Counts for the log: "2000 examples, 177563 tokens, 73705 response tokens"."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def on_disk(rows: Iterable[dict], path: Path, features: Features) -> Dataset:
    """Rows as a dataset that is read from the Arrow file `path`, to which they are written one by one."""
    with writable(path), ArrowWriter(path=str(path), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    # datasets makes its own fingerprints from the time of day, and saves them with the rows
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=path.stem)


def cut(rows: Iterable[dict], max_length: int) -> Iterator[dict]:
    """Rows with `input_ids` and `labels` cut at `max_length`."""
    for row in rows:
        yield row | {key: row[key][:max_length] for key in ("input_ids", "labels")}
