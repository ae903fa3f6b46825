"""Files as people have them: forms of JSON, encodings, delimiters, containers."""

import bz2
import gzip
import io
import json
import lzma

import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from lorabundle.core.errors import MalformedInputError
from tests.integration.data_cases.conftest import EXPECTED, answer, jsonl, pairs, question, table, texts

# --- JSON that is not one object a line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(pairs()),
        json.dumps(pairs(), indent=2),
        "\n\n" + json.dumps(pairs(), indent=1).replace("\n", "\r\n"),
        "\n".join(json.dumps(row, indent=2) for row in pairs()),
        " ".join(json.dumps(row) for row in pairs()),
        json.dumps({"version": "1.0", "data": pairs()}),
        json.dumps({"version": "1.0", "license": None, "rows": pairs()}, indent=2),
        json.dumps({"dataset": {"name": "x", "examples": pairs()}}),
        json.dumps({key: [row[key] for row in pairs()] for key in ("prompt", "completion")}),
        json.dumps({key: {str(n): row[key] for n, row in enumerate(pairs())} for key in ("prompt", "completion")}),
        json.dumps({str(n): row for n, row in enumerate(pairs())}),
        json.dumps(
            {"columns": ["prompt", "completion"], "index": [*range(40)], "data": [[*row.values()] for row in pairs()]}
        ),
    ],
    ids=[
        "line",
        "pretty",
        "blank-lines",
        "concatenated-pretty",
        "concatenated",
        "data",
        "rows",
        "nested",
        "lists",
        "columns",
        "index",
        "split",
    ],
)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_json_is_read_whatever_its_form_and_name(case, content, name):
    assert texts(case.learns(content, name)) == EXPECTED


def test_splits_below_keys_are_kept(case):
    rows = pairs(count=100)
    case.learns(json.dumps({"train": rows[:80], "test": rows[80:]}, indent=1), "mine.json")
    assert texts(case.split("test")) == {(question(n), answer(n)) for n in range(80, 100)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps({"version": 1, "meta": {"a": 2}}), ["version", "meta"]),
        (json.dumps([1, 2, 3]), ["number"]),
        ("hello there\nthis is text\n", ["JSON"]),
        ("", ["empty"]),
        ("[]", ["no rows"]),
        ("<!DOCTYPE html><html><body>404</body></html>", ["web page"]),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", ["LFS"]),
    ],
)
def test_what_is_not_rows_is_named(case, content, says):
    message = case.refused(content, "mine.json")
    assert all(word in message for word in says), message
    assert "has no row with columns" not in message
    assert "mine.json" in message


def test_a_key_that_is_there_twice_is_named_with_its_line(case):
    lines = jsonl(pairs()).splitlines()
    lines[6] = '{"prompt": "one", "prompt": "two", "completion": "three"}'
    message = case.refused("\n".join(lines), "mine.jsonl")
    assert "mine.jsonl:7" in message
    assert "prompt" in message
    assert "twice" in message


# --- Encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_honoured(case, encoding):
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    for name, text in (("a.jsonl", jsonl(pairs())), ("b.json", json.dumps(pairs())), ("c.csv", table(pairs(), "\t"))):
        assert texts(case.learns((mark + text).encode(encoding), name)) == EXPECTED


LANGUAGES = {  # encoding -> text that has letters outside ASCII
    "windows-1252": "Où se trouve l’hôtel numéro {n} ? Près de l’église, à côté du café.",
    "windows-1251": "Где находится гостиница номер {n}? Рядом с церковью, около кафе.",
    "gb18030": "第{n}号旅馆在哪里？在教堂旁边，咖啡馆附近。",
}


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_another_encoding_is_named_with_commands_that_work(case, encoding, capfd):
    rows = [
        {"question": LANGUAGES[encoding].format(n=n), "answer": LANGUAGES[encoding].format(n=n * 7)} for n in range(60)
    ]
    content = table(rows).encode(encoding)
    message = case.refused(content, "ansi.csv")
    assert "row 1" in message
    assert "iconv -f" in message
    assert "data.encoding" in message
    assert len(case.learns(content, "ansi.csv", f"data.encoding={encoding}", "data.near_duplicate_threshold=1.0")) == 60


# --- What is between cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sep={}\r\n", "\ufeffsep={}\n"])
def test_the_delimiter_is_found(case, delimiter, start):
    rows = [
        {"prompt": question(n), "completion": answer(n) + ' He said: "one; two, three"\nand | more'} for n in range(40)
    ]
    case.learns(start.format(delimiter) + table(rows, delimiter), "mine.csv")
    assert texts(case.rows()) == {(row["prompt"], row["completion"]) for row in rows}


def test_columns_without_a_name_and_blank_rows_are_passed_over(case):
    lines = table(pairs(), ";", lineterminator="\n").splitlines()
    content = "\n".join([f"{lines[0]};;", *(f"{line};;" for line in lines[1:]), ";;;", ""])
    assert texts(case.learns(content, "mine.csv")) == EXPECTED


# --- Columns that no field reads --------------------------------------------------------------------------------------


def test_columns_that_are_not_used_condemn_no_row(case):
    rows = pairs("question", "answer")
    columns = {key: [row[key] for row in rows] for key in rows[0]} | {"md5": [bytes([200 + n, 255]) for n in range(40)]}
    pa.parquet.write_table(pa.table(columns), "binary.parquet")
    manifest = case.preprocess("binary.parquet")
    assert texts(case.rows()) == EXPECTED
    assert any("md5" in note["note"] and note["rows"] == 40 for note in manifest["notes"])
    latin = table([row | {"note": "caf\xe9"} for row in rows]).encode("latin-1")
    assert texts(case.learns(latin, "latin.csv")) == EXPECTED


# --- Containers -------------------------------------------------------------------------------------------------------

PACKED = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


def arrow(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    rows_table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, rows_table.schema) as writer:
        writer.write_table(rows_table)
    return sink.getvalue().to_pybytes()


def parquet(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def xlsx(rows: list[dict]) -> bytes:
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append(list(row.values()))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


FORMATS = {
    ".jsonl": lambda rows: jsonl(rows).encode(),
    ".ndjson": lambda rows: jsonl(rows).encode(),
    ".json": lambda rows: json.dumps(rows).encode(),
    ".csv": lambda rows: table(rows).encode(),
    ".tsv": lambda rows: table(rows, "\t").encode(),
    ".parquet": parquet,
    ".arrow": arrow,
    ".xlsx": xlsx,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_packed_and_not(case, suffix, packed):
    content = PACKED[packed](FORMATS[suffix](pairs()))
    assert texts(case.learns(content, f"mine{suffix}{packed}")) == EXPECTED


@pytest.mark.parametrize(
    "name", ["mine.xlsx", "mine.jsonl.gz", "mine.parquet", "mine.jsonl.zst", "mine.csv.xz", "mine.arrow"]
)
def test_damaged_files_are_named(case, name):
    assert name in case.refused(b"PK\x03\x04", name, error=MalformedInputError)
