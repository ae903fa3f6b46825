"""The dataset that `data.source` names, as records, and what the manifest says about where it is from."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.files import iterate_jsonl, write_jsonl
from lorabundle.core.locks import locked_wheels
from lorabundle.data import docstrings, reasoning_gym
from lorabundle.data.file_formats import Row, describe, read_rows
from lorabundle.data.manifest import card_licence, wheel_licences
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine
from lorabundle.data.records import build, check_built
from lorabundle.data.shapes import Detection, detect
from lorabundle.data.source_files import source_files
from lorabundle.data.text_encoding import damaged_file, encoding_hint

log = logging.getLogger("lorabundle.preprocess")


@dataclass(frozen=True)
class Source:
    """A dataset, and where it is from.

    Attributes:
        files: what it was read from.
        records: (row of the file, record) for each row that fits the schema; can be read once.
        format: {"file": type of file, "shape": name of the shape, "columns": {field: column}, "files": how each file is written}.
        licences: by package or hub id, where one is stated.
        detection: how sure the shape is, and what is not used; None for records that this package builds.
    """

    files: list[Path]
    records: Iterable[tuple[Row, dict]]
    format: dict
    licences: dict[str, str]
    detection: Detection | None = None


def read_source(settings: config.Data, quarantine: Quarantine, notes: Notes) -> Source:
    """The configured dataset; rows that do not fit the schema go to `quarantine`, and what is not used to `notes`.

    Raises:
        LorabundleError: the files cannot be read, or their columns say nothing (see `file_formats` and `shapes`).
    """
    if settings.source in config.BUILT_SOURCES:
        return _read_wheels(settings, quarantine)
    return _read_files(settings, quarantine, notes)


def _read_wheels(settings: config.Data, quarantine: Quarantine) -> Source:
    """Records built from locked wheels: of each package in `data.packages`, or each task in `data.tasks`."""
    if settings.source == reasoning_gym.SOURCE:
        wheels = {reasoning_gym.PACKAGE: reasoning_gym.wheel()}
        built = reasoning_gym.build_records(settings.tasks)
    else:
        wheels = locked_wheels(settings.packages)
        built = docstrings.build_records(wheels)
    path = config.RAW / f"{settings.source}.jsonl"
    write_jsonl(path, built)
    records = check_built(iterate_jsonl(path, "Run `make data`."), quarantine)
    described = {"file": "built", "shape": settings.source, "columns": {}, "files": []}
    return Source(list(wheels.values()), records, described, wheel_licences(wheels))


def _read_files(settings: config.Data, quarantine: Quarantine, notes: Notes) -> Source:
    """Records of the user's files, or of a dataset that fetch downloaded."""
    files = source_files(settings)
    quarantine.hint = lambda: encoding_hint(damaged_file([file.path for file in files]))
    described, names = describe(files, settings.encoding)
    for line in described:
        log.info("%s", line)
    detection = detect(read_rows(files, settings.encoding), settings, names)
    meanings = ", ".join(f"{field} from {column}" for field, column in detection.columns.items())
    log.info("%s: shape %s, %s", settings.source_name, detection.shape, meanings)
    for column, rows in detection.unused.items():
        notes.add(f"column {column} not used", rows)
    licence = card_licence(settings.dataset_dir / "README.md") if settings.is_hub else ""
    form = {
        "file": config.data_suffix(files[0].path)[1:],
        "shape": detection.shape,
        "columns": detection.columns,
        "files": described,
    }
    return Source(
        [file.path for file in files],
        build(read_rows(files, settings.encoding), detection.columns, quarantine, notes),
        form,
        {settings.source_name: licence} if licence else {},
        detection,
    )
