"""Rows of Parquet, Arrow and XLSX files."""

import datetime
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet
from python_calamine import CalamineError, CalamineWorkbook

from lorabundle.core.errors import MalformedInputError
from lorabundle.data.csv_rows import check_names, column_keys
from lorabundle.data.packed import check_zip
from lorabundle.data.quarantine import RowProblem

BATCH = 1000  # rows decoded at once

Numbered = Iterator[tuple[int, dict | None, RowProblem | None]]


def parquet_rows(path: Path, file: BinaryIO) -> tuple[str, list[str], Numbered]:
    """(how the file is written, the columns' names, its rows). Raises `ColumnError` as `check_names` does."""
    parquet = pa.parquet.ParquetFile(file)
    names = parquet.schema_arrow.names
    check_names(path, names)
    return "Parquet", names, _numbered(parquet.iter_batches(batch_size=BATCH))


def arrow_rows(path: Path, file: BinaryIO) -> tuple[str, list[str], Numbered]:
    """As `parquet_rows`, for Arrow's file format and its stream format, which the library `datasets` writes."""
    try:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        batches = iter(reader)
    check_names(path, reader.schema.names)
    return "Arrow", reader.schema.names, _numbered(batches)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Numbered:
    number = 0
    for batch in batches:
        for cells in zip(*batch.columns, strict=True):
            number += 1
            yield (number, *_decoded(dict(zip(batch.schema.names, cells, strict=True))))


def _decoded(cells: dict[str, pa.Scalar]) -> tuple[dict, RowProblem | None]:
    """Cells as Python values. One that Python cannot represent, such as a far date, becomes its problem."""
    values: dict[str, Any] = {}
    for column, cell in cells.items():
        try:
            values[column] = cell.as_py()
        except UnicodeDecodeError as error:  # bytes that were marked as text
            values[column] = error.object
        except (ValueError, OverflowError) as error:
            values[column] = RowProblem("wrong_type", f"cannot be read ({error})", column)
    return values, None


def xlsx_rows(path: Path, file: BinaryIO) -> tuple[str, list[str], Numbered]:
    """(how the file is written, the columns' names, the rows of the first sheet that has any).

    Raises:
        MalformedInputError: it is not an XLSX file, is damaged, or unpacks to an absurd size.
        ColumnError: two columns have the same name.
    """
    check_zip(path, file)
    try:
        workbook = CalamineWorkbook.from_filelike(file)
        sheets = {name: workbook.get_sheet_by_name(name) for name in workbook.sheet_names}
    except (CalamineError, OSError, ValueError) as error:
        raise MalformedInputError(
            f"{path} cannot be read as XLSX: {error}. Open it in a spreadsheet program, and save it again as .xlsx or .csv."
        ) from error
    filled = [name for name, sheet in sheets.items() if sheet.height]
    if not filled:
        return "XLSX, no sheet has rows", [], iter(())
    rows = (row for row in sheets[filled[0]].iter_rows() if any(cell != "" for cell in row))
    names = [str(_plain(cell) or "").strip() for cell in next(rows)]
    check_names(path, [name for name in names if name])
    described = f"XLSX, sheet {filled[0]}"
    if others := ", ".join(filled[1:]):
        described += f" (not read: {others})"
    return described, names, _sheet_rows(rows, names)


def _sheet_rows(rows: Iterator[list], names: list[str]) -> Numbered:
    keys = column_keys(names)
    for number, cells in enumerate(rows, start=1):
        content = itertools.zip_longest(names, keys, cells[: len(names)], fillvalue="")
        yield number, {key: _plain(cell) for name, key, cell in content if name or cell != ""}, None


def _plain(cell: Any) -> Any:
    """A cell's value: None if it is empty, whole numbers without a fraction (a sheet has only floats), durations as text."""
    if cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return str(cell) if isinstance(cell, datetime.timedelta) else cell
