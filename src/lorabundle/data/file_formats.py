"""Rows of a user's dataset files, whatever their format, each with the place it comes from.

Reads .jsonl, .json, .csv and .parquet files. A row that cannot be read is returned with its problem, and reading goes on; a
file that cannot be split into rows is an error.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet

from lorabundle.core.config import DATA_SUFFIXES
from lorabundle.core.errors import ColumnError, MalformedInputError
from lorabundle.core.files import numbered_lines, parse_object, require
from lorabundle.data.quarantine import RowProblem

REMEDY = "See 'Your own data' in README.md for what each format holds."
NOT_UTF8 = "is not UTF-8: save the file in that encoding"
LARGEST_CELL = 1 << 26  # characters of a CSV cell: a quote that is never closed makes the rest of the file one cell
PARQUET_BATCH = 1000  # rows decoded at once
BOM = b"\xef\xbb\xbf"
ESCAPED = re.compile("[\udc80-\udcff]")  # how errors="surrogateescape" decodes bytes that are not UTF-8
# The hub's own files in a dataset's folder
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "provenance.json"}


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


def dataset_files(folder: Path) -> list[Path]:
    """The data files of a downloaded dataset, sorted: those of its most frequent format, without the hub's metadata.

    If formats are equally frequent, they hold the same data, and the first of parquet, jsonl, csv, json is used.

    Raises:
        MissingInputError: there are no data files.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix.lower() in DATA_SUFFIXES and file.name not in METADATA
    ]
    counts = Counter(file.suffix.lower() for file in files)
    if not counts:
        require(folder / "*.parquet", f"The dataset holds no file of a known format. {REMEDY}")
    suffix = max(DATA_SUFFIXES, key=lambda suffix: counts[suffix])  # of equals, max returns the first
    return [file for file in files if file.suffix.lower() == suffix]


def read_rows(files: list[Path], root: Path) -> Iterator[Row]:
    """All rows of some files, in order.

    Args:
        files: paths, each with a suffix of `READERS`.
        root: folder that the rows' keys are relative to.

    Raises:
        MissingInputError: a file does not exist.
        MalformedInputError: a file cannot be split into rows; the message names it.
        ColumnError: two columns of a file have the same name.
    """
    for file in files:
        require(file, "Name an existing file in data.source.")
        name, key = file.as_posix(), file.relative_to(root).as_posix()
        read = READERS[file.suffix.lower()]
        if read is _read_json and _opens_with_object(file):  # .json files with one object a line are common
            read = _read_jsonl
        try:
            for number, values, problem in read(file):
                where = f"{name}:{number}" if read is _read_jsonl else f"{name} row {number}"
                yield Row(where, f"{key}:{number}", values, problem)
        except (pa.ArrowException, OSError) as error:
            raise MalformedInputError(f"{name} cannot be read as {file.suffix[1:]}: {error}. {REMEDY}") from error


Numbered = Iterator[tuple[int, Any, RowProblem | None]]


def _read_jsonl(path: Path) -> Numbered:
    # Line by line: pyarrow's JSON reader needs one type per column, and cannot say which line is wrong
    for number, line in numbered_lines(path):
        try:
            yield number, parse_object(line), None
        except ValueError as error:
            yield number, line.decode("utf-8", "backslashreplace"), RowProblem(*error.args)


def _opens_with_object(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1000).removeprefix(BOM).lstrip()[:1] == b"{"


def _read_json(path: Path) -> Numbered:
    content = path.read_bytes().removeprefix(BOM)
    try:
        # a byte that is not UTF-8 becomes half a surrogate pair, so that its row can be named
        text = content.decode("utf-8", "surrogateescape")
        rows = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise MalformedInputError(f"{path} is not valid JSON: {error}. {REMEDY}") from error
    if not isinstance(rows, list):
        raise MalformedInputError(f"{path} is a {type(rows).__name__}, not an array of objects. {REMEDY}")
    file_is_damaged = ESCAPED.search(text) is not None
    for number, row in enumerate(rows, start=1):
        problem = None
        if not isinstance(row, dict):
            problem = RowProblem("not_an_object", f"is a {type(row).__name__}, not a JSON object")
        elif file_is_damaged and (damaged := [name for name, cell in row.items() if _is_damaged(name, cell)]):
            problem = RowProblem("not_utf8", NOT_UTF8, damaged[0])
        yield number, row, problem


def _is_damaged(name: str, cell: Any) -> bool:
    """Whether a JSON object's key or value, of any depth, has a byte that is not UTF-8."""
    return ESCAPED.search(json.dumps([name, cell], ensure_ascii=False)) is not None


def _read_csv(path: Path) -> Numbered:
    csv.field_size_limit(LARGEST_CELL)  # the csv module's own limit is 131,072
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = _csv_rows(path, file)
        names = next(rows, [])
        if any(ESCAPED.search(name) for name in names):
            raise MalformedInputError(f"{path}: the first line, with the columns' names, {NOT_UTF8}.")
        _check_names(path, names)
        for number, cells in enumerate(rows, start=1):
            if len(cells) == len(names):
                # as the file's bytes, so that `_decoded` can name a cell that is not UTF-8; an empty cell is a missing value
                content = (cell.encode("utf-8", "surrogateescape") or None for cell in cells)
                yield (number, *_decoded(dict(zip(names, content, strict=True))))
            else:
                reason = f"has {len(cells)} cells, but the first line names {len(names)} columns"
                yield number, None, RowProblem("wrong_cell_count", reason)


def _csv_rows(path: Path, file: TextIO) -> Iterator[list[str]]:
    """The rows that are not blank, as lists of cells; the first holds the columns' names.

    Raises:
        MalformedInputError: the quotes of a row do not match, so that nobody can say where it ends.
    """
    reader = csv.reader(file, strict=True)
    for number in count():
        row = f"row {number}" if number else "the first line, with the columns' names,"
        try:
            cells = next(filter(None, reader), None)
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                problem = f"a quote that opens in {row} is never closed"
            else:
                problem = f"{row} cannot be read, at line {reader.line_num} of the file: {error}"
            raise MalformedInputError(
                f"{path}: {problem}. Put each cell that holds a quote in quotes, and write that quote twice."
            ) from error
        if cells is None:
            return
        yield cells


def _read_parquet(path: Path) -> Numbered:
    number = 0
    with pa.parquet.ParquetFile(path) as file:
        _check_names(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH):
            for cells in zip(*batch.columns, strict=True):
                number += 1
                yield (number, *_decoded(dict(zip(batch.schema.names, cells, strict=True))))


def _decoded(cells: dict[str, Any]) -> tuple[dict, RowProblem | None]:
    """Cells as Python values, and the problem of the first that cannot be read."""
    values, problem = {}, None
    for column, cell in cells.items():
        try:
            value = cell.as_py() if isinstance(cell, pa.Scalar) else cell
            values[column] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            values[column] = shown = error.object.decode("utf-8", "backslashreplace")
            problem = problem or RowProblem("not_utf8", f"{NOT_UTF8} (byte {error.start} of {shown[:30]!r})", column)
        except (ValueError, OverflowError) as error:  # for example, a date that Python cannot represent
            problem = problem or RowProblem("wrong_type", f"cannot be read ({error})", column)
    return values, problem


def _check_names(path: Path, names: list[str]) -> None:
    repeated = [name for name, copies in Counter(names).items() if copies > 1]
    if repeated:
        raise ColumnError(f"{path} has more than one column {repeated[0]}. Rename or remove one of them.")


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
