"""Rows of a user's dataset files, whatever their format, each with the place it comes from.

A row that cannot be read is returned with its problem, and reading goes on; a file that cannot be split into rows is an error. A cell
that is not of the file's encoding is returned with its bytes escaped: whether that matters depends on whether the column is used.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from lorabundle.core.config import data_suffix
from lorabundle.core.errors import MalformedInputError
from lorabundle.data.csv_rows import csv_rows
from lorabundle.data.json_rows import json_rows
from lorabundle.data.packed import open_seekable, open_unpacked, packed_suffix
from lorabundle.data.quarantine import RowProblem
from lorabundle.data.source_files import SourceFile
from lorabundle.data.table_rows import arrow_rows, parquet_rows, xlsx_rows
from lorabundle.data.text_encoding import ESCAPED, encoding_hint, open_text

TABLES = {".parquet": parquet_rows, ".arrow": arrow_rows, ".xlsx": xlsx_rows}
CSV = {".csv", ".tsv"}


class Row(NamedTuple):
    """A row, or what could be read of it.

    Attributes:
        where: its place, for messages.
        key: its name within the dataset.
        values: {column: value}, or what could be read.
        problem: why it cannot be used.
        split: train, val or test, if the user's files say it; else "".
    """

    where: str
    key: str
    values: Any
    problem: RowProblem | None = None
    split: str = ""


class OpenFile(NamedTuple):
    """A file while it is read: how it is written, its columns as far as its start names them, and its rows."""

    described: str
    names: list[str]
    rows: Iterator[Row]


@contextlib.contextmanager
def open_rows(file: SourceFile, encoding: str | None) -> Iterator[OpenFile]:
    """Open a file.

    Args:
        file: as `source_files` gives it.
        encoding: `data.encoding`.

    Raises:
        MalformedInputError: it cannot be split into rows; the message names it and says what it is.
        ColumnError: two of its columns have the same name.
    """
    path, suffix = file.path, data_suffix(file.path)
    packed = f", {packed_suffix(path)}" if packed_suffix(path) else ""
    try:
        if suffix in TABLES:
            with open_seekable(path) as content:
                described, names, rows = TABLES[suffix](path, content)
                yield OpenFile(described + packed, names, _placed(file, rows))
            return
        with open_unpacked(path) as content:
            text, text_is = open_text(content, path, encoding)
            if suffix in CSV:
                described, names, rows = csv_rows(path, text)
                if damaged := [name for name in names if ESCAPED.search(name)]:
                    raise MalformedInputError(
                        f"{path}: the first line, with the columns' names, is not {encoding or 'UTF-8'}, at {_shown(damaged[0])}. "
                        f"{encoding_hint(path)}"
                    )
                yield OpenFile(f"CSV, {described}, {text_is}{packed}", names, _placed(file, rows))
            else:
                described, is_by_line, rows = json_rows(path, text)
                yield OpenFile(f"{described}, {text_is}{packed}", [], _placed(file, rows, is_by_line))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise MalformedInputError(
            f"{path} cannot be read as {suffix[1:]}: {error}. It is damaged, or its name does not say its format: write it again."
        ) from error


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _placed(file: SourceFile, rows: Iterator[tuple], is_by_line: bool = False) -> Iterator[Row]:
    """Rows with their places. Each is (number, values, problem) or a `JsonRow`."""
    for number, values, problem, *split in rows:
        where = f"{file.path.as_posix()}:{number}" if is_by_line else f"{file.path.as_posix()} row {number}"
        yield Row(where, f"{file.key}:{number}", values, problem, file.split or "".join(split))


def read_rows(files: list[SourceFile], encoding: str | None) -> Iterator[Row]:
    """All rows of some files, in order. Raises as `open_rows` does."""
    for file in files:
        with open_rows(file, encoding) as opened:
            yield from opened.rows


def describe(files: list[SourceFile], encoding: str | None) -> tuple[list[str], list[str]]:
    """(for each file, its name, how it is written, and its split if it has one; the columns that the files' starts name).

    Raises as `open_rows` does.
    """
    described: list[str] = []
    names: dict[str, None] = {}
    for file in files:
        with open_rows(file, encoding) as opened:
            split = f", for {file.split}" if file.split else ""
            described.append(f"{file.path.as_posix()}: {opened.described}{split}")
            names |= dict.fromkeys(opened.names)
    return described, list(names)
