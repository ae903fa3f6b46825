"""Raw data -> validated, de-duplicated, group-split, tokenised Arrow splits and a manifest.

Reads docstrings (default) or tasks in `data/raw/wheels/*.whl`, the user's file or a dataset that fetch downloaded, and the
base model's tokenizer. Writes `data/raw/<source>.jsonl` for what is built from wheels, `outputs/<run>/quarantine.jsonl` if
there are rows that cannot be used, `data/processed/{train,val,test}/` and, last, `data/processed/manifest.json` with a copy
in `outputs/<run>/`. `data/processed/` holds the splits of one run at a time: building them takes seconds. Rows pass through memory
one at a time, and wait on disk in between.

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
from lorabundle.model.convert import load_tokenizer

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


def assign_splits(ids: list[str], groups: list[str], settings: config.Data) -> dict[str, list[int]]:
    """Indices by split: whole groups to a split by hash, then each split cut to its limit in the order of the ids' hashes.

    Args:
        ids, groups: of the records.
        settings: fractions and limits.

    Raises:
        EmptySplitError: no record fell into a split.
    """
    limits = {
        "train": settings.max_train_examples,
        "val": settings.max_val_examples,
        "test": settings.max_test_examples,
    }
    splits: dict[str, list[int]] = {name: [] for name in config.SPLITS}
    for index in sorted(range(len(ids)), key=lambda index: sha256(ids[index].encode()).digest()):
        splits[split_of(groups[index], settings.val_fraction, settings.test_fraction)].append(index)
    for name, indices in splits.items():
        if not indices:
            sizes = Counter(groups)
            raise EmptySplitError(
                f"The {name} split is empty: {len(ids)} records in {len(sizes)} groups leave none for it; the largest group "
                f"has {max(sizes.values(), default=0)}. Add data, raise data.val_fraction and data.test_fraction, or, if rows that "
                f"only look alike share a group, raise data.near_duplicate_threshold."
            )
    return {name: indices[: limits[name]] for name, indices in splits.items()}


def encode_rows(
    pairs: Iterable[tuple[Row, dict]], tokenizer, max_length: int, quarantine: Quarantine, fields: dict[str, str]
) -> Iterator[dict]:
    """Records with `input_ids` and `labels`, not yet cut; those that cannot be trained on go to `quarantine`.

    Raises:
        TemplateError: the chat template does not allow a response mask.
    """
    for row, record in pairs:
        for part in ("prompt", "completion"):
            found = [prompts.control_token(tokenizer, message["content"]) for message in record[part]]
            if token := next(filter(None, found), None):
                reason = f"has the control token {token!r}, which the tokenizer would read as the end of a turn, say"
                quarantine.add(row.where, RowProblem("control_token", reason, _column(fields, part)), row.values)
                break
        else:
            ids = prompts.encode(tokenizer, record["prompt"], record["completion"])
            if all(label == prompts.IGNORE_INDEX for label in ids["labels"][:max_length]):
                opening = next(n for n, label in enumerate(ids["labels"]) if label != prompts.IGNORE_INDEX)
                reason = f"leaves no token to learn from: it has {opening} tokens and data.max_length is {max_length}"
                quarantine.add(row.where, RowProblem("prompt_too_long", reason, _column(fields, "prompt")), row.values)
            else:
                yield record | ids


def _column(fields: dict[str, str], part: str) -> str:
    """The column of the user's file that a part of a record is from."""
    return fields.get("messages") or fields.get(part, part)


def cut(rows: Iterable[dict], max_length: int) -> Iterator[dict]:
    """Rows with `input_ids` and `labels` cut at `max_length`."""
    for row in rows:
        yield row | {key: row[key][:max_length] for key in ("input_ids", "labels")}


def on_disk(rows: Iterable[dict], path: Path) -> Dataset:
    """Rows of `FEATURES`, written to an Arrow file as they come and read from it as they are asked for."""
    with writable(path), ArrowWriter(path=str(path), features=FEATURES) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    # Without a fingerprint of ours, the time of day would be part of it
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=path.stem)


@dataclass(frozen=True)
class Source:
    """A dataset as read: files, (row, record) of the rows that fit the schema, and what the manifest says of it."""

    files: list[Path]
    pairs: Iterable[tuple[Row, dict]]
    format: dict
    licences: dict[str, str]


def _built(settings: config.Data, quarantine: Quarantine) -> Source:
    """Records that are made from locked wheels: of every configured package, or of every configured task."""
    if settings.source == reasoning_gym.SOURCE:
        wheels = {reasoning_gym.PACKAGE: reasoning_gym.wheel()}
        built = reasoning_gym.build_records(settings.tasks)
    else:
        wheels = locked_wheels(settings.packages)
        built = build_records(wheels)
    raw = config.RAW / f"{settings.source}.jsonl"
    write_jsonl(raw, built)
    form = {"file": "built", "shape": settings.source, "columns": {}}
    pairs = check_built(iterate_jsonl(raw, "Run `make data`."), quarantine)
    return Source(list(wheels.values()), pairs, form, wheel_licences(wheels))


def _users_data(settings: config.Data, quarantine: Quarantine) -> Source:
    """Records of a file, or of a dataset that fetch downloaded."""
    files, licences = [Path(settings.source)], {}
    root = files[0].parent
    if settings.is_hub:
        root = settings.dataset_dir
        require(root / "provenance.json", "Run `make fetch`: it downloads the dataset.")
        files = dataset_files(root)
        licence = card_licence(root / "README.md")
        licences = {settings.source: licence} if licence else {}
    shape, fields = columns_of(read_rows(files, root), settings)
    log.info("%s: shape %s, %s", settings.source, shape, ", ".join(f"{f} from {c}" for f, c in fields.items()))
    form = {"file": files[0].suffix.lower()[1:], "shape": shape, "columns": fields}
    return Source(files, build(read_rows(files, root), fields, quarantine), form, licences)


def run(run_config: Config) -> Artifacts:
    """Build the splits and the manifest."""
    settings = run_config.data
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(run_config.model_dir)
    quarantine = Quarantine(run_config.run_dir / "quarantine.jsonl", settings.on_error)
    source = (_built if settings.source in config.BUILT_SOURCES else _users_data)(settings, quarantine)
    with scratch_dir(config.PROCESSED / ".rows") as scratch:
        rows = encode_rows(source.pairs, tokenizer, settings.max_length, quarantine, source.format["columns"])
        encoded = on_disk(rows, scratch / "encoded.arrow")
        total = len(encoded) + len(quarantine.rows)
        quarantined = quarantine.close(total)
        if quarantined["rows"]:
            log.warning("%d of %d rows left out, see %s", quarantined["rows"], total, quarantined["file"])

        groups, dropped, before = deduplicate(encoded, settings.near_duplicate_threshold)
        log.info("%d records from %s, dropped: %s", total, settings.source, dropped)
        kept, ids = list(groups), list(encoded["id"])
        chosen = assign_splits([ids[index] for index in kept], list(groups.values()), settings)
        splits = {
            name: on_disk((encoded[kept[n]] | {"group": groups[kept[n]]} for n in places), scratch / f"{name}.arrow")
            for name, places in chosen.items()
        }
        after, remaining = remaining_pairs(splits, settings.near_duplicate_threshold)
        _warn_of(after["across"], remaining)
        licences = dict(source.licences)
        if run_config.model.source == "wheel":
            licences |= wheel_licences(locked_wheels([run_config.model.path]))
        manifest = {
            "schema": 1,
            "source": settings.source,
            "format": source.format,
            "source_sha256": hash_paths(source.files),
            "licences": licences,
            "tokenizer_sha256": sha256_file(run_config.model_dir / "tokenizer.json"),
            "template_sha256": prompts.template_sha256(tokenizer),
            "records": total,
            "quarantined": quarantined,
            "dropped": dropped | {"over_split_limit": len(kept) - sum(map(len, splits.values()))},
            "truncated": {},
            "duplicates": {"threshold": settings.near_duplicate_threshold, "before": before}
            | {"after": after, "remaining": remaining},
            "lengths": lengths(splits),
            "splits": {},
        }
        _write(splits, manifest, settings.max_length, scratch)
    copy = run_config.run_dir / "manifest.json"  # the run's own
    write_json_if_changed(copy, manifest)
    return Artifacts(
        inputs=[*source.files, run_config.model_dir / "tokenizer.json"],
        outputs=[copy, *([quarantine.path] if quarantined["file"] else [])]
        + [config.PROCESSED / name for name in (*config.SPLITS, "manifest.json")],
    )


def _warn_of(across: dict[str, dict[str, int]], remaining: list[dict]) -> None:
    """Say which pairs of rows are alike in two splits; after grouping, these are answers too short to tell rows apart."""
    if remaining:
        counts = ", ".join(f"{n['exact']} equal and {n['near']} near in {column}" for column, n in across.items())
        pairs = [f"{p['a']['id']} ({p['a']['split']}) and {p['b']['id']} ({p['b']['split']})" for p in remaining[:3]]
        log.warning(
            "pairs of rows that lie in two splits: %s; first %s; more are in manifest.json", counts, "; ".join(pairs)
        )


def _write(splits: dict[str, Dataset], manifest: dict, max_length: int, scratch: Path) -> None:
    """Write the splits, cut, complete `manifest` with what they hold, and write it last."""
    path = config.PROCESSED / "manifest.json"
    path.unlink(missing_ok=True)  # from here until it is rewritten, the splits are in flux
    for name, uncut in splits.items():
        manifest["truncated"][name] = sum(len(row["input_ids"]) > max_length for row in uncut)
        rows = on_disk(cut(uncut, max_length), scratch / f"{name}-cut.arrow")
        folder = config.PROCESSED / name
        with atomic_dir(folder) as temporary:
            rows.save_to_disk(temporary)
        manifest["splits"][name] = describe_split(rows, folder)
        shown = {key: manifest["splits"][name][key] for key in ("examples", "tokens", "response_tokens")}
        log.info("%s: %s", name, shown)
    write_json(path, manifest)


if __name__ == "__main__":
    sys.exit(run_stage("preprocess", run))
