"""Rows of a user's dataset files, whatever their format, each with the place it comes from.

Reads .jsonl, .json, .csv and .parquet files. A row that cannot be read is given with its problem instead of ending the run;
a file that cannot be taken apart into rows is an error.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lorabundle.core.config import DATA_SUFFIXES
from lorabundle.core.errors import ColumnError, MalformedInputError
from lorabundle.core.files import numbered_lines, parse_object, require
from lorabundle.data.quarantine import RowProblem

REMEDY = "See 'Using your own data' in README.md for what each format holds."
NOT_UTF8 = "is not UTF-8: convert the file with `iconv -t utf-8`"
CSV_BLOCK = 1 << 26  # bytes parsed at once, which the largest row must fit in
PARQUET_ROWS = 1000  # rows decoded at once
SENTINEL = b"\0end"  # a cell that no row of the user's can have: control characters are refused
BOM = b"\xef\xbb\xbf"
ESCAPED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of bytes that are not UTF-8
# Files of the hub's own beside a dataset's
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "provenance.json"}


class Row(NamedTuple):
    """A row, or what is left of one that cannot be read. `where` names it for people, `key` within its dataset."""

    where: str
    key: str
    values: Any
    problem: RowProblem | None = None


def dataset_files(folder: Path) -> list[Path]:
    """The data files of a downloaded dataset, sorted: those of its most frequent format, the hub's metadata left aside.

    Where formats are equally frequent, the first of parquet, jsonl, csv, json is taken: they hold the same data then.

    Raises:
        MissingInputError: there are none.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix.lower() in DATA_SUFFIXES and file.name not in METADATA
    ]
    counts = Counter(file.suffix.lower() for file in files)
    if not counts:
        require(folder / "*.parquet", f"The dataset holds no file of a known format. {REMEDY}")
    suffix = max(DATA_SUFFIXES, key=lambda suffix: counts[suffix])  # max gives the first of equals
    return [file for file in files if file.suffix.lower() == suffix]


def read_rows(files: list[Path], root: Path) -> Iterator[Row]:
    """All rows of some files of one format, in order.

    Args:
        files: paths, each with a suffix of `READERS`.
        root: folder that the rows' keys are relative to.

    Raises:
        MissingInputError: a file is not there.
        MalformedInputError: a file as a whole cannot be read; the message names it.
        ColumnError: two columns of a file have one name.
    """
    for file in files:
        require(file, "Name an existing file in data.source.")
        name, key = file.as_posix(), file.relative_to(root).as_posix()
        read = READERS[file.suffix.lower()]
        if read is _read_json and _opens_with_object(file):  # many a file of this name holds one object a line
            read = _read_jsonl
        try:
            for number, values, problem in read(file):
                where = f"{name}:{number}" if read is _read_jsonl else f"{name} row {number}"
                yield Row(where, f"{key}:{number}", values, problem)
        except (pa.ArrowException, OSError) as error:
            raise MalformedInputError(f"{name} cannot be read as {file.suffix[1:]}: {error}. {REMEDY}") from error


Numbered = Iterator[tuple[int, Any, RowProblem | None]]


def _read_jsonl(path: Path) -> Numbered:
    # Line by line: pyarrow's JSON reader wants one type a column, and cannot say which line is wrong
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
        # a byte that is not UTF-8 becomes half a surrogate pair, so that the row that it stands in can be named
        text = content.decode("utf-8", "surrogateescape")
        rows = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise MalformedInputError(f"{path} is not valid JSON: {error}. {REMEDY}") from error
    if not isinstance(rows, list):
        raise MalformedInputError(f"{path} is a {type(rows).__name__}, not an array of objects. {REMEDY}")
    damaged = ESCAPED.search(text)
    for number, row in enumerate(rows, start=1):
        problem = None
        if not isinstance(row, dict):
            problem = RowProblem("not_an_object", f"is a {type(row).__name__}, not a JSON object")
        elif damaged:
            spoilt = [
                name for name, cell in row.items() if ESCAPED.search(json.dumps([name, cell], ensure_ascii=False))
            ]
            problem = RowProblem("not_utf8", NOT_UTF8, spoilt[0]) if spoilt else None
        yield number, row, problem


def _read_csv(path: Path) -> Numbered:
    content = path.read_bytes().removeprefix(BOM)
    names = _csv_names(path, content)
    if not names:
        return
    # pyarrow gives up on a row that is neither UTF-8 nor of the right number of cells, so it gets every byte as a character
    damaged = ESCAPED.search(content.decode("utf-8", "surrogateescape")) is not None
    content = content.decode("latin-1").encode("utf-8") if damaged else content
    seen_as = [name.encode("utf-8").decode("latin-1") if damaged else name for name in names]
    misfits: dict[int, RowProblem] = {}

    def skip(row: pa.csv.InvalidRow) -> str:
        reason = f"has {row.actual_columns} cells, but the first line names {row.expected_columns} columns"
        misfits[row.number - 1] = RowProblem("wrong_cell_count", reason)  # pyarrow's row 1 is the columns' names
        return "skip"

    # A quote that is never closed swallows the rest of the file, and pyarrow drops such a last row without a word
    end = b"\n" + b",".join([SENTINEL] * len(names)) + b"\n"
    batches = pa.csv.open_csv(
        io.BytesIO(content + end),
        pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK),
        pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        # as bytes, decoded cell by cell below, so that one that is not UTF-8 can be named
        pa.csv.ConvertOptions(column_types={name: pa.binary() for name in seen_as}, check_utf8=False),
    )
    number = 1
    cells: list[bytes] = []
    for batch in batches:
        for row in batch.to_pylist():
            while number in misfits:
                yield number, None, misfits[number]
                number += 1
            cells = list(row.values())
            if cells != [SENTINEL] * len(names):
                cells = [cell.decode("utf-8").encode("latin-1") for cell in cells] if damaged else cells
                values = {name: cell or None for name, cell in zip(names, cells, strict=True)}  # empty: missing
                yield (number, *_decoded(values))
            number += 1
    if cells != [SENTINEL] * len(names):
        raise MalformedInputError(f"{path}: a quote that opens in row {number} is never closed. Close or double it.")


def _csv_names(path: Path, content: bytes) -> list[str]:
    """The names in the first line; none if the file is empty."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8", "surrogateescape", newline="")
    try:
        names = next(filter(None, csv.reader(text)), [])
    except csv.Error as error:
        raise MalformedInputError(f"{path}: the columns' names in the first line cannot be read: {error}.") from error
    if any(ESCAPED.search(name) for name in names):
        raise MalformedInputError(f"{path}: the first line, with the columns' names, {NOT_UTF8}.")
    _check_names(path, names)
    return names


def _read_parquet(path: Path) -> Numbered:
    number = 0
    with pa.parquet.ParquetFile(path) as file:
        _check_names(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for cells in zip(*batch.columns, strict=True):
                number += 1
                yield (number, *_decoded(dict(zip(batch.schema.names, cells, strict=True))))


def _decoded(cells: dict[str, Any]) -> tuple[dict, RowProblem | None]:
    """Cells as Python values, and the problem of the first that cannot be one."""
    values, problem = {}, None
    for column, cell in cells.items():
        try:
            value = cell.as_py() if isinstance(cell, pa.Scalar) else cell
            values[column] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            values[column] = shown = error.object.decode("utf-8", "backslashreplace")
            problem = problem or RowProblem("not_utf8", f"{NOT_UTF8} (byte {error.start} of {shown[:30]!r})", column)
        except (ValueError, OverflowError) as error:  # a date that Python cannot hold, say
            problem = problem or RowProblem("wrong_type", f"cannot be read ({error})", column)
    return values, problem


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ColumnError(f"{path} has more than one column {twice[0]}. Rename or remove one.")


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
