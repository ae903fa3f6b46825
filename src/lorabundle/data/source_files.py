"""The files of a dataset, and which split each is for: from a file, a folder, a list, a glob, or what fetch downloaded."""

import glob
import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lorabundle.core.config import DATA_SUFFIXES, GLOB, SPLIT_NAMES, Data, data_suffix
from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import require
from lorabundle.data.manifest import front_matter

log = logging.getLogger("lorabundle.preprocess")

# The hub's own files in a dataset's folder
METADATA = {
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
    "provenance.json",
    "package.json",
}
WORD = re.compile(r"[^A-Za-z0-9]+")


class SourceFile(NamedTuple):
    """A file to read: where it is, its name in rows' ids, and the split that its rows are for ("" if that is not said)."""

    path: Path
    key: str
    split: str


def source_files(settings: Data) -> list[SourceFile]:
    """The files that `data.source`, or `data.splits`, names.

    Raises:
        MissingInputError: a file is not there, or a folder or glob has no data files.
    """
    if settings.splits:
        return [
            SourceFile(_existing(path, f"data.splits.{split}"), Path(path).name, split)
            for split, path in settings.splits.items()
        ]
    if settings.is_hub:
        folder = settings.dataset_dir
        require(folder / "provenance.json", "Run `make fetch` with this run's CONFIG: it downloads the dataset.")
        _warn_of_configs(folder, settings)
        return _by_split(_in_folder(folder), folder)
    files = [file for path in settings.paths for file in _expanded(path)]
    repeated = [file for file, copies in Counter(files).items() if copies > 1]
    if repeated:
        raise MissingInputError(f"data.source names {repeated[0]} more than once. Name each file once.")
    first = Path(settings.paths[0])
    root = first if first.is_dir() else Path(os.path.commonpath([file.parent.absolute() for file in files]))
    return _by_split(files, root)


def _expanded(path: str) -> list[Path]:
    """The files that one entry of data.source stands for."""
    if Path(path).is_dir():
        return _in_folder(Path(path))
    if GLOB.search(path) and not Path(path).exists():
        files = [Path(file) for file in sorted(glob.glob(path, recursive=True)) if Path(file).is_file()]
        if not files:
            raise MissingInputError(f"No file matches {path}, which data.source names. Name files that exist.")
        return _known(files, path)
    return [_existing(path, "data.source")]


def _existing(path: str, key: str) -> Path:
    return require(Path(path), f"Name an existing file in {key}.")


def _known(files: list[Path], where: str) -> list[Path]:
    """The files of a known format; the others are named in the log."""
    data = [file for file in files if data_suffix(file)]
    others = [file.name for file in files if not data_suffix(file)]
    if not data:
        found = f"; it has {', '.join(others[:5])}" if others else ""
        raise MissingInputError(
            f"{where} holds no file of a known format{found}. Known are {', '.join(DATA_SUFFIXES)}, each also compressed."
        )
    if others:
        log.warning("%s: not read, because the format is not known: %s", where, _listed(others))
    return data


def _in_folder(folder: Path) -> list[Path]:
    """The data files of a folder and its subfolders, sorted: those of the most frequent format."""
    inside = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    files = [
        folder / file
        for file in inside
        if file.name not in METADATA and not any(part.startswith(".") for part in file.parts)
    ]
    documents = {".md", ".txt", ""}  # a README or a licence is no surprise
    files = _known([file for file in files if data_suffix(file) or file.suffix.lower() not in documents], str(folder))
    counts = Counter(map(data_suffix, files))
    chosen = max(DATA_SUFFIXES, key=lambda suffix: counts[suffix])  # of equals, the first
    passed_over = [str(file.relative_to(folder)) for file in files if data_suffix(file) != chosen]
    if passed_over:
        log.warning(
            "%s: reading the %d %s files; not read: %s. To read others, name them in data.source",
            folder,
            counts[chosen],
            chosen,
            _listed(passed_over),
        )
    return [file for file in files if data_suffix(file) == chosen]


def _by_split(files: list[Path], root: Path) -> list[SourceFile]:
    """The files with the splits that their names say, if there are several and at least one is not held out."""
    splits = {file: split_of_name(file.absolute().relative_to(root.absolute())) for file in files}
    if len(files) == 1 or set(splits.values()) <= {""} or not set(splits.values()) & {"", "train"}:
        splits = dict.fromkeys(files, "")
    elif unnamed := [file.name for file in files if not splits[file]]:
        log.info("taken as training data, because their names say no split: %s", _listed(unnamed))
        splits = {file: split or "train" for file, split in splits.items()}
    return [SourceFile(file, file.absolute().relative_to(root.absolute()).as_posix(), splits[file]) for file in files]


def split_of_name(file: Path) -> str:
    """The split that a file's path names as a word (validation-00000-of-00004.parquet, test/0.csv); "" if there is none."""
    for part in reversed(file.parts):
        found = {SPLIT_NAMES[word] for word in WORD.split(part.lower()) if word in SPLIT_NAMES}
        if len(found) == 1:
            return found.pop()
    return ""


def _warn_of_configs(folder: Path, settings: Data) -> None:
    """Say if a hub dataset's files are of several configs, which are often versions of the same rows."""
    names = {file.relative_to(folder).parts[0] for file in _in_folder(folder) if file.parent != folder}
    names = {name for name in names if name.lower() not in {"data", *SPLIT_NAMES}}
    names |= set(card_configs(folder / "README.md")) if settings.files is None else set()
    if len(names) > 1:
        log.warning(
            "%s has several configs, and all are read together: %s. To read one, set data.files, for example data.files: '%s/*'",
            settings.source,
            ", ".join(sorted(names)),
            min(names),
        )


def card_configs(card: Path) -> list[str]:
    """The names of the configs that the front matter of a hub dataset's README.md lists."""
    configs = front_matter(card).get("configs")
    entries = configs if isinstance(configs, list) else []
    return [str(entry["config_name"]) for entry in entries if isinstance(entry, dict) and "config_name" in entry]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
