"""Raw data -> validated, de-duplicated, grouped, tokenised Arrow splits and a manifest.

Reads the base model's tokenizer and one dataset: docstrings (the default) or tasks from `data/raw/wheels/*.whl`, the user's
file, or a dataset that fetch downloaded. Writes `data/processed/{train,val,test}/` and, last, `data/processed/manifest.json`
with a copy in `outputs/<run>/`; also `data/raw/<source>.jsonl` for records built from wheels, and
`outputs/<run>/quarantine.jsonl` if there are rows that cannot be used. `data/processed/` holds the splits of one run at a
time: building them takes seconds. Rows are read one at a time and kept on disk, so that memory does not grow with the data.

Run as: python -m lorabundle.preprocess --config config/default.yaml
"""

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import datasets
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.errors import EmptySplitError
from lorabundle.core.files import (
    atomic_dir,
    hash_paths,
    iterate_jsonl,
    require,
    scratch_dir,
    sha256_file,
    writable,
    write_json,
    write_json_if_changed,
    write_jsonl,
)
from lorabundle.core.locks import locked_wheels
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.data import reasoning_gym
from lorabundle.data.docstrings import build_records
from lorabundle.data.duplicates import deduplicate, remaining_pairs
from lorabundle.data.file_formats import Row, dataset_files, read_rows
from lorabundle.data.manifest import card_licence, describe_split, lengths, wheel_licences
from lorabundle.data.quarantine import Quarantine, RowProblem
from lorabundle.data.shapes import build, check_built, columns_of
from lorabundle.model import prompts
from lorabundle.model.architecture import load_tokenizer

log = logging.getLogger("lorabundle.preprocess")

MANIFEST = config.PROCESSED / "manifest.json"
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


def run(run_config: Config) -> Artifacts:
    """Build the splits and the manifest."""
    settings = run_config.data
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(run_config.model_dir)
    quarantine = Quarantine(run_config.run_dir / "quarantine.jsonl", settings.on_error)
    source = read_source(settings, quarantine)
    with scratch_dir(config.PROCESSED / ".rows") as scratch:
        usable = encode_rows(source.records, tokenizer, settings.max_length, quarantine, source.format["columns"])
        encoded = on_disk(usable, scratch / "encoded.arrow")
        num_rows = len(encoded) + len(quarantine.rows)
        quarantined = close_quarantine(quarantine, num_rows)
        groups, dropped, pairs_before = deduplicate(encoded, settings.near_duplicate_threshold)
        log.info("%d rows read from %s; dropped: %s", num_rows, settings.source, _listed(dropped))
        splits = split_rows(encoded, groups, settings, scratch)
        pairs_after, remaining = remaining_pairs(splits, settings.near_duplicate_threshold)
        warn_of_similar_rows(pairs_after["across"], remaining)
        manifest = describe_inputs(run_config, source, tokenizer) | {
            "records": num_rows,
            "quarantined": quarantined,
            "dropped": dropped | {"over_split_limit": len(groups) - sum(map(len, splits.values()))},
            "truncated": count_truncated(splits, settings.max_length),
            "duplicates": {
                "threshold": settings.near_duplicate_threshold,
                "before": pairs_before,
                "after": pairs_after,
                "remaining": remaining,
            },
            "lengths": lengths(splits),
        }
        manifest["splits"] = write_splits(splits, settings.max_length, scratch)
    write_json(MANIFEST, manifest)
    copy = run_config.run_dir / "manifest.json"  # the run's own
    write_json_if_changed(copy, manifest)
    outputs = [copy, *(config.PROCESSED / name for name in config.SPLITS), MANIFEST]
    return Artifacts(
        inputs=[*source.files, run_config.model_dir / "tokenizer.json"],
        outputs=[*outputs, quarantine.path] if quarantined["file"] else outputs,
    )


@dataclass(frozen=True)
class Source:
    """A dataset, and what the manifest says about where it is from.

    Attributes:
        files: what it was read from.
        records: (row of the file, record) for each row that fits the schema; can be read once.
        format: {"file": type of file, "shape": name of the shape, "columns": {field: column}}.
        licences: by package or hub id, where one is stated.
    """

    files: list[Path]
    records: Iterable[tuple[Row, dict]]
    format: dict
    licences: dict[str, str]


def read_source(settings: config.Data, quarantine: Quarantine) -> Source:
    """The dataset that `data.source` names; rows that do not fit the schema go to `quarantine`."""
    if settings.source in config.BUILT_SOURCES:
        return _read_wheels(settings, quarantine)
    return _read_files(settings, quarantine)


def _read_wheels(settings: config.Data, quarantine: Quarantine) -> Source:
    """Records built from locked wheels: of each package in `data.packages`, or each task in `data.tasks`."""
    if settings.source == reasoning_gym.SOURCE:
        wheels = {reasoning_gym.PACKAGE: reasoning_gym.wheel()}
        built = reasoning_gym.build_records(settings.tasks)
    else:
        wheels = locked_wheels(settings.packages)
        built = build_records(wheels)
    path = config.RAW / f"{settings.source}.jsonl"
    write_jsonl(path, built)
    records = check_built(iterate_jsonl(path, "Run `make data`."), quarantine)
    described = {"file": "built", "shape": settings.source, "columns": {}}
    return Source(list(wheels.values()), records, described, wheel_licences(wheels))


def _read_files(settings: config.Data, quarantine: Quarantine) -> Source:
    """Records of the user's file, or of a dataset that fetch downloaded."""
    if settings.is_hub:
        folder = settings.dataset_dir
        require(folder / "provenance.json", "Run `make fetch` with this run's CONFIG: it downloads the dataset.")
        files = dataset_files(folder)
        licence = card_licence(folder / "README.md")
    else:
        files = [Path(settings.source)]
        folder = files[0].parent
        licence = ""
    shape, columns = columns_of(read_rows(files, folder), settings)
    meanings = ", ".join(f"{field} from {column}" for field, column in columns.items())
    log.info("%s: shape %s, %s", settings.source, shape, meanings)
    records = build(read_rows(files, folder), columns, quarantine)
    described = {"file": files[0].suffix.lower()[1:], "shape": shape, "columns": columns}
    return Source(files, records, described, {settings.source: licence} if licence else {})


def encode_rows(
    records: Iterable[tuple[Row, dict]], tokenizer, max_length: int, quarantine: Quarantine, columns: dict[str, str]
) -> Iterator[dict]:
    """Records with `input_ids` and `labels`, not yet cut; those that cannot be trained on go to `quarantine`.

    Args:
        records: as `Source` has them.
        tokenizer: of the base model.
        max_length: to which the rows will be cut, in tokens.
        quarantine: collects the rows that cannot be used.
        columns: {field: column} of the user's file, for the messages.

    Raises:
        TemplateError: the chat template does not allow a response mask.
    """
    for row, record in records:
        try:
            encoded = _encode(record, tokenizer, max_length, columns)
        except RowProblem as problem:
            quarantine.add(row.where, problem, row.values)
        else:
            yield record | encoded


def _encode(record: dict, tokenizer, max_length: int, columns: dict[str, str]) -> dict[str, list[int]]:
    """A record's `input_ids` and `labels`.

    Raises:
        RowProblem: a text has a control token, or no label is left after cutting.
    """
    for part in ("prompt", "completion"):
        tokens = (prompts.control_token(tokenizer, message["content"]) for message in record[part])
        if token := next(filter(None, tokens), None):
            reason = f"has {token!r}, which the tokenizer reads as a control token and not as text"
            raise RowProblem("control_token", reason, _column(columns, part))
    encoded = prompts.encode(tokenizer, record["prompt"], record["completion"])
    is_label = [label != prompts.IGNORE_INDEX for label in encoded["labels"]]
    if not any(is_label[:max_length]):
        num_prompt_tokens = is_label.index(True)
        reason = f"leaves no room for an answer: it has {num_prompt_tokens} tokens and data.max_length is {max_length}"
        raise RowProblem("prompt_too_long", reason, _column(columns, "prompt"))
    return encoded


def _column(columns: dict[str, str], part: str) -> str:
    """The column of the user's file that holds a part of a record."""
    return columns.get("messages") or columns.get(part, part)


def close_quarantine(quarantine: Quarantine, num_rows: int) -> dict:
    """The manifest's entry on the rows that cannot be used, out of `num_rows`. Raises what `Quarantine.close` raises."""
    quarantined = quarantine.close(num_rows)
    if quarantined["rows"]:
        log.warning("%d of %d rows left out, see %s", quarantined["rows"], num_rows, quarantined["file"])
    return quarantined


def split_of(group: str, val_fraction: float, test_fraction: float) -> str:
    """The split of a group. It depends only on the group's name, so that adding data moves nothing between splits."""
    position = int(sha256(group.encode()).hexdigest()[:8], 16) / 0x1_0000_0000
    if position < test_fraction:
        return "test"
    return "val" if position < test_fraction + val_fraction else "train"


def assign_splits(ids: list[str], groups: dict[int, str], settings: config.Data) -> dict[str, list[int]]:
    """Indices of the rows of each split. A group is never divided; above its limit, a split keeps the rows with the smallest hashes.

    Args:
        ids: of all rows; the hashes are of these.
        groups: {index: group} of the rows to assign.
        settings: fractions and limits.

    Raises:
        EmptySplitError: no row is left for a split.
    """
    limits = {
        "train": settings.max_train_examples,
        "val": settings.max_val_examples,
        "test": settings.max_test_examples,
    }
    splits: dict[str, list[int]] = {name: [] for name in config.SPLITS}
    for index in sorted(groups, key=lambda index: sha256(ids[index].encode()).digest()):
        splits[split_of(groups[index], settings.val_fraction, settings.test_fraction)].append(index)
    for name, indices in splits.items():
        if not indices:
            sizes = Counter(groups.values())
            raise EmptySplitError(
                f"The {name} split is empty: {len(groups)} records in {len(sizes)} groups are too few; the largest group has "
                f"{max(sizes.values(), default=0)}. Add data, or raise data.val_fraction and data.test_fraction. If rows that are not "
                f"really alike share a group, raise data.near_duplicate_threshold."
            )
    return {name: indices[: limits[name]] for name, indices in splits.items()}


def split_rows(encoded: Dataset, groups: dict[int, str], settings: config.Data, scratch: Path) -> dict[str, Dataset]:
    """The rows of each split, with their merged groups, not yet cut. Raises what `assign_splits` raises."""
    return {
        name: on_disk((encoded[index] | {"group": groups[index]} for index in indices), scratch / f"{name}.arrow")
        for name, indices in assign_splits(list(encoded["id"]), groups, settings).items()
    }


def warn_of_similar_rows(across: dict[str, dict[str, int]], remaining: list[dict]) -> None:
    """Log which rows are alike in two splits. After grouping, these are answers that are too short to tell rows apart."""
    if remaining:
        counts = ", ".join(f"{n['exact']} equal and {n['near']} near in {column}" for column, n in across.items())
        pairs = [f"{p['a']['id']} ({p['a']['split']}) and {p['b']['id']} ({p['b']['split']})" for p in remaining[:3]]
        log.warning(
            "pairs of similar rows in different splits: %s; for example %s; manifest.json lists more",
            counts,
            "; ".join(pairs),
        )


def describe_inputs(run_config: Config, source: Source, tokenizer) -> dict:
    """The manifest's first part: what the splits are made from."""
    licences = dict(source.licences)
    if run_config.model.source == "wheel":
        licences |= wheel_licences(locked_wheels([run_config.model.path]))
    return {
        "schema": 1,
        "source": run_config.data.source,
        "format": source.format,
        "source_sha256": hash_paths(source.files),
        "licences": licences,
        "tokenizer_sha256": sha256_file(run_config.model_dir / "tokenizer.json"),
        "template_sha256": prompts.template_sha256(tokenizer),
    }


def count_truncated(splits: dict[str, Dataset], max_length: int) -> dict[str, int]:
    """Number of rows of each split that are longer than `max_length` tokens, and will be cut."""
    return {name: sum(len(row["input_ids"]) > max_length for row in rows) for name, rows in splits.items()}


def write_splits(splits: dict[str, Dataset], max_length: int, scratch: Path) -> dict[str, dict]:
    """Cut the rows of each split and write them to `data/processed/`; returns the manifest's entry of each."""
    MANIFEST.unlink(missing_ok=True)  # it must not describe splits that are being replaced; `run` writes the new one
    entries = {}
    for name, uncut in splits.items():
        rows = on_disk(cut(uncut, max_length), scratch / f"{name}-cut.arrow")
        folder = config.PROCESSED / name
        with atomic_dir(folder) as temporary:
            rows.save_to_disk(temporary)
        entries[name] = describe_split(rows, folder)
        log.info(
            "%s: %s", name, _listed({key: entries[name][key] for key in ("examples", "tokens", "response_tokens")})
        )
    return entries


def _listed(counts: dict[str, int]) -> str:
    """Counts for the log: "2000 examples, 177563 tokens, 73705 response tokens"."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def cut(rows: Iterable[dict], max_length: int) -> Iterator[dict]:
    """Rows with `input_ids` and `labels` cut at `max_length`."""
    for row in rows:
        yield row | {key: row[key][:max_length] for key in ("input_ids", "labels")}


def on_disk(rows: Iterable[dict], path: Path) -> Dataset:
    """Rows of `FEATURES` as a dataset that is read from the Arrow file `path`, to which they are written one by one."""
    with writable(path), ArrowWriter(path=str(path), features=FEATURES) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    # datasets makes its own fingerprints from the time of day, and saves them with the rows
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=path.stem)


if __name__ == "__main__":
    sys.exit(run_stage("preprocess", run))
