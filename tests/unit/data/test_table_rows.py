"""Parquet, Arrow and XLSX: cells as Python values."""

import datetime
import io

import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest

from lorabundle.core.errors import ColumnError, MalformedInputError
from lorabundle.data.table_rows import arrow_rows, parquet_rows, xlsx_rows

ROWS = [{"a": "x", "n": 7, "l": [1, 2]}, {"a": None, "n": 8, "l": []}]


def read(function, path) -> tuple[str, list]:
    with path.open("rb") as file:
        described, _, rows = function(path, file)
        return described, [values for _, values, _ in rows]


@pytest.fixture
def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def test_parquet(tmp_path, table):
    pa.parquet.write_table(table, tmp_path / "d.parquet")
    assert read(parquet_rows, tmp_path / "d.parquet") == ("Parquet", ROWS)


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_both_arrow_formats(tmp_path, table, new):
    with new(str(tmp_path / "d.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read(arrow_rows, tmp_path / "d.arrow") == ("Arrow", ROWS)


def test_a_cell_that_python_cannot_represent_is_its_own_problem(tmp_path):
    far = pa.array([2**52], pa.timestamp("ms"))
    pa.parquet.write_table(pa.table({"when": far, "a": ["x"]}), tmp_path / "d.parquet")
    (row,) = read(parquet_rows, tmp_path / "d.parquet")[1]
    assert row["a"] == "x"
    assert row["when"].cause == "wrong_type"


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with pa.ipc.new_stream(str(tmp_path / "d.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ColumnError, match="more than one column a"):
        read(arrow_rows, tmp_path / "d.arrow")


def book(path, sheets: dict[str, list[list]]):
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
    workbook.save(path)
    return path


def test_xlsx_cells(tmp_path):
    day = datetime.date(2026, 11, 26)
    rows = [
        ["a", "n", "f", "b", "d"],
        ["two\nlines", 7, 7.5, True, day],
        [None, None, None, None, None],
        ["x", None, 1, False, day],
    ]
    path = book(tmp_path / "d.xlsx", {"First": rows})
    described, found = read(xlsx_rows, path)
    assert described == "XLSX, sheet First"
    assert found[0] == {"a": "two\nlines", "n": 7, "f": 7.5, "b": True, "d": day}
    assert found[1] == {"a": "x", "n": None, "f": 1, "b": False, "d": day}


def test_the_first_sheet_with_rows_is_read_and_the_others_named(tmp_path):
    path = book(tmp_path / "d.xlsx", {"Cover": [], "Data": [["a", ""], ["x", ""]], "Old": [["b"], ["y"]]})
    assert read(xlsx_rows, path) == ("XLSX, sheet Data (not read: Old)", [{"a": "x"}])


def test_a_book_without_rows(tmp_path):
    assert read(xlsx_rows, book(tmp_path / "d.xlsx", {"Empty": []})) == ("XLSX, no sheet has rows", [])


def test_what_is_not_xlsx_is_named(tmp_path):
    (tmp_path / "d.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(MalformedInputError, match="is damaged or is not an XLSX file"):
        read(xlsx_rows, tmp_path / "d.xlsx")
    pa.parquet.write_table(pa.table({"a": ["x"]}), tmp_path / "p.xlsx")
    with pytest.raises(MalformedInputError, match="is damaged or is not an XLSX file"):
        xlsx_rows(tmp_path / "p.xlsx", io.BytesIO((tmp_path / "p.xlsx").read_bytes()))
