"""JSON in its many forms: rows, their places, and what a file without rows is said to be."""

import io
import json
import tracemalloc
from pathlib import Path

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.data import json_rows as module
from lorabundle.data.json_rows import json_rows

PATH = Path("d.json")
ROWS = [{"a": "x", "b": 1}, {"a": "y", "b": None}]


def read(text: str) -> list:
    return list(json_rows(PATH, io.StringIO(text, newline=""))[2])


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1", "rows": ROWS, "more": [1, 2]},
        {"version": "1", "odd_name": ROWS},
        {"dataset": {"name": "n", "examples": ROWS}},
        {"result": {"page": {"items": ROWS}}},
        {"a": ["x", "y"], "b": [1, None]},
        {"a": {"0": "x", "1": "y"}, "b": {"0": 1, "1": None}},
        {"0": ROWS[0], "1": ROWS[1]},
        {"columns": ["a", "b"], "index": [0, 1], "data": [["x", 1], ["y", None]]},
        {"schema": {"fields": []}, "data": ROWS},
    ],
)
@pytest.mark.parametrize("indent", [None, 1, 4])
def test_rows_are_found_wherever_they_are(content, indent):
    if isinstance(content, dict) and "version" in content and "rows" not in content:
        content = {key: value for key, value in content.items() if key != "version"}
    assert [row.values for row in read(json.dumps(content, indent=indent))] == ROWS


@pytest.mark.parametrize("between", ["\n", "\n\n", " ", "", "\r\n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_objects_one_after_another(between, indent):
    assert [row.values for row in read(between.join(json.dumps(row, indent=indent) for row in ROWS))] == ROWS


def test_splits_below_keys():
    rows = read(json.dumps({"train": ROWS, "validation": ROWS[:1], "test": ROWS[1:]}, indent=1))
    assert [row.split for row in rows] == ["train", "train", "val", "test"]


@pytest.mark.parametrize("form", ["lines", "array"])
@pytest.mark.parametrize("key", ["role", "from"])
def test_a_bare_list_of_messages_is_a_row(form, key):
    chat = [{key: "user", "content": "q"}, {key: "assistant", "content": "a"}]
    text = "\n".join([json.dumps(chat)] * 2) if form == "lines" else json.dumps([chat, chat], indent=1)
    assert [row.values for row in read(text)] == [{"messages": chat}] * 2


def test_one_object_is_one_row():
    assert [row.values for row in read(json.dumps({"prompt": "q", "completion": "a"}, indent=2))] == [
        {"prompt": "q", "completion": "a"}
    ]
    chat = {"messages": [{"role": "user", "content": "q"}]}
    assert [row.values for row in read(json.dumps(chat, indent=2))] == [chat]


def test_a_key_that_is_there_twice_is_the_rows_problem():
    lines = read('{"a": "x"}\n{"a": {"b": 1, "b": 2}}\n{"a": "z"}\n')
    assert [row.problem and row.problem.reason for row in lines] == [None, "has the key 'b' twice", None]
    document = read('[\n {"a": "x"},\n {"a": "y",\n  "a": "z"},\n {"a": "w"}\n]')
    assert [row.problem and row.problem.reason for row in document] == [
        None,
        "has the key 'a' twice (the object starts at line 3)",
        None,
    ]


def test_a_broken_line_is_a_bad_row_even_if_it_is_the_first():
    rows = read('{"a": \n{"a": "x"}\n{"a": "y"}\n')
    assert [row.problem and row.problem.cause for row in rows] == ["not_json", None, None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[\n {"a": "x"},\n {"a": y}\n]', r"d\.json:3 is not valid JSON: Expecting value, near"),
        ('{"data": [\n{"a": "x"}\n{"a": "y"}]}', r"d\.json:3 is not valid JSON: ',' is expected"),
        ('[{"a": "x"}, {"a": "y"}', r"d\.json:1 is not valid JSON"),
        ('{"version": 1, "meta": {"n": 2}}', "one JSON object with the keys version, meta, and no rows"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n1,2\n", "is not JSON: it starts with 'a,b"),
        ("[" * 100_000, "is not JSON that can be read|is not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_named(text, says):
    with pytest.raises(MalformedInputError, match=says):
        read(text)


@pytest.mark.parametrize(
    ("text", "what"), [("[1, 2]", "a number"), ('["x"]', "a text"), ("[[1, 2]]", "a list of 2 (number)")]
)
def test_entries_that_are_no_objects_are_named(text, what):
    assert read(text)[0].problem.reason == f"is {what}, not a JSON object"


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_pieces_of_any_size_give_the_same_rows(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    rows = [{"a": 'text with "quotes", [brackets] and \\ ' * n, "n": n, "f": -1.5e3} for n in range(40)]
    for content in (rows, {"v": 1, "data": rows, "end": [1, 2.5, True, None]}):
        assert [row.values for row in read(json.dumps(content, indent=1))] == rows
        assert [row.values for row in read(json.dumps(content))] == rows


def test_an_array_is_read_row_by_row(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    text = io.StringIO("[" + ",\n".join(json.dumps({"a": "x" * 10_000}) for _ in range(2000)) + "]")
    tracemalloc.start()
    assert sum(1 for _ in json_rows(PATH, text)[2]) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB
