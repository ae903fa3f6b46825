"""Rows of CSV and TSV files. What is between cells is found from the first rows."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import TextIO

from lorabundle.core.errors import ColumnError, MalformedInputError
from lorabundle.data.quarantine import RowProblem

LARGEST_CELL = 1 << 26  # characters: a quote that is never closed makes the rest of the file one cell
SAMPLE_LINES, SAMPLE_CHARACTERS = 500, 1 << 17  # from which the delimiter is found; one of the two ends the sample
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}  # the first of equally good ones is taken
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?')  # Excel's way to say the delimiter

Numbered = Iterator[tuple[int, dict | None, RowProblem | None]]


def csv_rows(path: Path, file: TextIO) -> tuple[str, list[str], Numbered]:
    """(how the file is written, the columns' names, its rows with their numbers; row 1 follows the names).

    An empty cell is a missing value. Rows without any content are passed over, as are columns that have neither name nor content.

    Raises:
        MalformedInputError: the quotes of a row do not match, so that nobody can say where it ends.
        ColumnError: two columns have the same name.
    """
    csv.field_size_limit(LARGEST_CELL)  # the csv module's own limit is 131,072
    lines = iter(file)
    sample = _sample(lines)
    said = SEPARATOR_LINE.fullmatch(sample[0]) if sample else None
    sample = sample[1:] if said else sample
    delimiter = said[1] if said else find_delimiter(sample)
    rows = _cells(path, csv.reader(chain(sample, lines), delimiter=delimiter, strict=True))
    names = [name.strip() for name in next(rows, [])]
    check_names(path, [name for name in names if name])
    described = f"cells separated by {DELIMITERS.get(delimiter, repr(delimiter))}"
    return described, names, _numbered(rows, names)


def _sample(lines: Iterator[str]) -> list[str]:
    sample, size = [], 0
    for line in islice(lines, SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        if size > SAMPLE_CHARACTERS:
            break
    return sample


def find_delimiter(lines: list[str]) -> str:
    """The delimiter with which most rows have as many cells as the first one, and more than one."""
    best, best_share = ",", 0.0
    for delimiter in DELIMITERS:
        try:
            widths = [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
        except csv.Error:
            continue
        if len(widths) > 2:
            widths.pop()  # may go on after the sample
        share = sum(width == widths[0] for width in widths) / len(widths) if widths and widths[0] > 1 else 0
        if share > best_share:
            best, best_share = delimiter, share
    return best


def check_names(path: Path, names: list[str]) -> None:
    """Raise `ColumnError` if two columns of a file have the same name."""
    repeated = [name for name, copies in Counter(names).items() if copies > 1]
    if repeated:
        raise ColumnError(f"{path} has more than one column {repeated[0]}. Rename or remove one of them.")


def column_keys(names: list[str]) -> list[str]:
    """What rows call each column; those without a name get one by their place, which no field reads."""
    return [name or f"(no name, column {place})" for place, name in enumerate(names, start=1)]


def _numbered(rows: Iterator[list[str]], names: list[str]) -> Numbered:
    last_named = max((place for place, name in enumerate(names, start=1) if name), default=0)
    keys = column_keys(names)
    for number, cells in enumerate(rows, start=1):
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if last_named <= len(cells) <= len(names):
            cells += [""] * (len(names) - len(cells))
            content = zip(names, keys, cells, strict=True)
            yield number, {key: cell or None for name, key, cell in content if name or cell.strip()}, None
        elif any(cell.strip() for cell in cells):
            reason = f"has {len(cells)} cells, but the first line names {len(names)} columns"
            yield number, None, RowProblem("wrong_cell_count", reason)


def _cells(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows that have any content, as lists of cells; the first holds the columns' names."""
    for number in count():
        row = f"row {number}" if number else "the first line, with the columns' names,"
        try:
            cells = next((cells for cells in reader if any(map(str.strip, cells))), None)
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
