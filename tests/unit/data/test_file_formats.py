"""Files of each format into rows: what is kept byte for byte, and how a row that cannot be read is named."""

import csv
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest

from lorabundle.core.errors import ColumnError, MalformedInputError
from lorabundle.data import csv_rows
from lorabundle.data.file_formats import Row, describe, read_rows
from lorabundle.data.source_files import SourceFile

FORMATS = ["jsonl", "json", "csv", "parquet"]
TEXTS = [
    "plain",
    "two\nlines\tand a tab",
    'quotes " and, commas',
    "שלום \u200fעולם\u200f مرحبا",  # right to left, with its marks
    "👩‍👩‍👧 🇩🇪 e\u0301 \U0001f9d1\U0001f3fd",  # joined, flag, combining accent, skin tone
    "\u2028 line separator",
    "x" * 10_000_000,
]


def write(path, rows: list[dict]):
    """Rows in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(*paths) -> list[Row]:
    return list(read_rows(files(*paths), None))


def files(*paths) -> list[SourceFile]:
    return [SourceFile(path, path.relative_to(paths[0].parent).as_posix(), "") for path in paths]


@pytest.mark.parametrize("suffix", FORMATS)
def test_texts_are_read_byte_for_byte(tmp_path, suffix):
    rows = [{"prompt": text, "completion": "a"} for text in TEXTS]
    found = read(write(tmp_path / f"d.{suffix}", rows))
    assert [row.values for row in found] == rows
    assert all(row.problem is None for row in found)


@pytest.mark.parametrize(
    ("suffix", "where", "key"),
    [
        ("jsonl", "d.jsonl:2", "d.jsonl:2"),
        ("json", "d.json row 2", "d.json:2"),
        ("csv", "d.csv row 2", "d.csv:2"),
        ("parquet", "d.parquet row 2", "d.parquet:2"),
    ],
)
def test_second_row_is_named(tmp_path, suffix, where, key):
    row = read(write(tmp_path / f"d.{suffix}", [{"a": "x"}, {"a": "y"}]))[1]
    assert row.where == f"{tmp_path}/{where}"
    assert row.key == key


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_values_are_none(tmp_path, suffix):
    rows = read(write(tmp_path / f"d.{suffix}", [{"a": "x", "b": None}, {"a": "y", "b": "z"}]))
    assert [row.values["b"] for row in rows] == [None, "z"]


def test_parquet_numbers_and_nan_stay_what_they_are(tmp_path):
    rows = read(write(tmp_path / "d.parquet", [{"a": 1.5, "n": 3}, {"a": float("nan"), "n": 4}]))
    assert rows[0].values == {"a": 1.5, "n": 3}
    assert rows[1].values["a"] != rows[1].values["a"]


def test_lists_of_messages_in_parquet(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}]
    assert [row.values for row in read(write(tmp_path / "d.parquet", rows))] == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", '{"a": "x\\r\\ny"}\r\n\r\n{"a": "z"}\r\n'),
        ("d.json", '[{"a": "x\\r\\ny"},\r\n{"a": "z"}]\r\n'),
        ("d.csv", 'a\r\n"x\r\ny"\r\nz\r\n'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_crlf(tmp_path, name, content, mark):
    path = tmp_path / name
    path.write_bytes(mark + content.encode())
    assert [row.values for row in read(path)] == [{"a": "x\r\ny"}, {"a": "z"}]


@pytest.mark.parametrize(
    ("name", "content", "where", "column"),
    [
        ("d.jsonl", b'{"a": "x", "b": "1"}\n{"a": "x", "b": "\xff"}\n{"a": "y", "b": "2"}\n', ":2", "b"),
        ("d.json", b'[{"a": "x", "b": "1"}, {"a": "x", "b": "\xff"}, {"a": "y", "b": "2"}]', " row 2", "b"),
        ("d.csv", b"a,b\nx,1\nx,\xff\ny,2\n", " row 2", "b"),
    ],
)
def test_bytes_that_are_not_utf8_are_kept_for_whoever_uses_the_column(tmp_path, name, content, where, column):
    path = tmp_path / name
    path.write_bytes(content)
    good, bad, last = read(path)
    assert (good.problem, bad.problem, last.problem) == (None, None, None)
    assert bad.where == f"{path}{where}"
    assert bad.values == {"a": "x", column: "\udcff"}
    assert last.values == {"a": "y", "b": "2"}


def test_parquet_cell_that_is_not_utf8_is_kept_for_whoever_uses_the_column(tmp_path):
    """Some writers mark any bytes as text; others never mark text as such."""
    spoilt = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"]).buffers())
    plain = pa.array([b"x", b"\xff"])
    pa.parquet.write_table(pa.table({"a": plain, "b": spoilt}), tmp_path / "d.parquet")
    good, bad = read(tmp_path / "d.parquet")
    assert good.values == {"a": b"x", "b": "ok"}
    assert (bad.problem, bad.values) == (None, {"a": b"\xff", "b": b"caf\xe9"})


@pytest.mark.parametrize(
    ("line", "cause"),
    [(b'{"a": ', "not_json"), (b"[1]", "not_an_object"), (b"[" * 100_000, "not_json"), (b"\0", "not_json")],
)
def test_bad_line_is_a_bad_row(tmp_path, line, cause):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"a": "x"}\n\n' + line + b'\n{"a": "y"}\n')
    first, bad, last = read(path)
    assert [first.values, last.values] == [{"a": "x"}, {"a": "y"}]
    assert (bad.where, bad.problem.cause) == (f"{path}:3", cause)


def test_json_with_one_object_a_line(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"a": "x"}\n{"a": \n')
    good, bad = read(path)
    assert good.values == {"a": "x"}
    assert bad.where == f"{path}:2"


def test_csv_rows_with_too_few_or_too_many_cells(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('a,b\n1\n"2\n2",x\n3,x,x\n\n4,x\n5\n')
    rows = read(path)
    assert [row.where.split()[-1] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row.problem and row.problem.cause for row in rows] == [
        "wrong_cell_count",
        None,
        "wrong_cell_count",
        None,
        "wrong_cell_count",
    ]
    assert [rows[1].values, rows[3].values] == [{"a": "2\n2", "b": "x"}, {"a": "4", "b": "x"}]
    assert "has 3 cells, but the first line names 2 columns" in rows[2].problem.reason


def test_csv_row_that_is_neither_utf8_nor_of_the_right_length(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xc3\xa4,b\n\xff\n\xc3\xa9,7\n\xe9,z\n")
    misfit, good, bad = read(path)
    assert misfit.problem.cause == "wrong_cell_count"
    assert good == (f"{path} row 2", "d.csv:2", {"ä": "é", "b": "7"}, None, "")
    assert bad.values == {"ä": "\udce9", "b": "z"}


def test_csv_cells_are_texts_whatever_they_look_like(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,c,d\n007,true,2020-01-01,NaN\n")
    assert read(path)[0].values == {"a": "007", "b": "true", "c": "2020-01-01", "d": "NaN"}


def test_csv_names_may_hold_line_breaks(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('"a\nb",c\n1,2\n')
    assert read(path)[0].values == {"a\nb": "1", "c": "2"}


def test_csv_rows_are_numbered_without_the_names_and_blank_lines(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("\na,b\n" + "".join(f"{n}\n" if n % 7 == 3 else f'{n},"x\nx"\n\n' for n in range(1, 101)))
    rows = read(path)
    assert [row.key for row in rows] == [f"d.csv:{n}" for n in range(1, 101)]
    assert [n for n, row in enumerate(rows, start=1) if row.problem] == [n for n in range(1, 101) if n % 7 == 3]
    assert all(row.values["a"] == str(n) for n, row in enumerate(rows, start=1) if not row.problem)


def test_csv_quotes(tmp_path):
    """A quote within quotes is written twice; one in a cell without quotes is text."""
    path = tmp_path / "d.csv"
    path.write_text('a,b\n"say ""hi""","x,y"\n5" screen,""\n')
    assert [row.values for row in read(path)] == [{"a": 'say "hi"', "b": "x,y"}, {"a": '5" screen', "b": None}]


def test_csv_is_read_row_by_row(tmp_path):
    """A file need not fit in memory."""
    path = tmp_path / "d.csv"
    path.write_text("a,b\n" + f"1,{'x' * 10_000}\n" * 1000)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(files(path), None)) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < path.stat().st_size


def test_csv_cell_beyond_the_limit(tmp_path, monkeypatch):
    """The rest of a large file after a quote that is never closed must not fill the memory."""
    monkeypatch.setattr(csv_rows, "LARGEST_CELL", 100)
    path = tmp_path / "d.csv"
    path.write_text('a,b\n1,2\n"3,4\n' + "5,6\n" * 100)
    with pytest.raises(MalformedInputError, match=r"row 2 cannot be read, at line \d+ of the file: field larger than"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", b'a,b\n1,2\n"3,4\n5,6\n', "a quote that opens in row 2 is never closed"),
        ("d.csv", b'a,"b\n1,2\n', "a quote that opens in the first line, with the columns' names, is never closed"),
        (
            "d.csv",
            b'a,b\n\n"1\n1","say "hi""\n',
            "row 1 cannot be read, at line 4 of the file: ',' expected after '\"'",
        ),
        ("d.csv", b"a,\xff\n1,2\n", "first line, with the columns' names, is not UTF-8"),
        ("d.parquet", b"PAR1 no PAR1", r"d\.parquet cannot be read as parquet"),
        ("d.parquet", b"", r"d\.parquet cannot be read as parquet"),
    ],
)
def test_file_that_cannot_be_taken_apart(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MalformedInputError, match=message):
        read(path)


def test_empty_files(tmp_path):
    for content in (b"", b"\n\n"):
        (tmp_path / "d.csv").write_bytes(content)
        assert read(tmp_path / "d.csv") == []
        (tmp_path / "d.jsonl").write_bytes(content)
        with pytest.raises(MalformedInputError, match=r"d\.jsonl is empty"):
            read(tmp_path / "d.jsonl")


def test_a_file_is_described(tmp_path):
    write(tmp_path / "d.csv", [{"a": "x", "b": "y"}])
    write(tmp_path / "d.jsonl", [{"a": "x"}])
    paths = [SourceFile(tmp_path / "d.csv", "d.csv", "test"), SourceFile(tmp_path / "d.jsonl", "d.jsonl", "")]
    described, names = describe(paths, None)
    assert described == [
        f"{tmp_path}/d.csv: CSV, cells separated by commas, UTF-8, for test",
        f"{tmp_path}/d.jsonl: one JSON value a line, UTF-8",
    ]
    assert names == ["a", "b"]
    assert [row.split for row in read_rows(paths, None)] == ["test", ""]


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "d.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(ColumnError, match="more than one column a"):
        read(tmp_path / "d.csv")


def test_rows_of_several_files_have_keys_of_their_own(tmp_path):
    (tmp_path / "sub").mkdir()
    paths = [write(tmp_path / "d.jsonl", [{"a": "x"}]), write(tmp_path / "sub/d.jsonl", [{"a": "y"}])]
    assert [row.key for row in read(*paths)] == ["d.jsonl:1", "sub/d.jsonl:1"]
