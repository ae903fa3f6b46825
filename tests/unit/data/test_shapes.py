"""A user's own data: shapes, and what is said about a bad row."""

import json
import math
from pathlib import Path

import pytest

from lorabundle.core.errors import ColumnError, RowError
from lorabundle.data.file_formats import Row, read_rows
from lorabundle.data.quarantine import Quarantine
from lorabundle.data.shapes import build, columns_of
from tests.unit.data.test_file_formats import FORMATS, write
from tests.unit.test_preprocess import settings

PAIR = [("user", "Q"), ("assistant", "A")]


def load(path: Path, on_error: str = "stop", **changes) -> tuple[list[dict], dict]:
    """The records of a file, and the manifest's entry on those left out."""
    rows = list(read_rows([path], path.parent))
    quarantine = Quarantine(path.parent / "quarantine.jsonl", on_error)
    _, fields = columns_of(rows, settings(source=str(path), **changes))
    built = [record for _, record in build(rows, fields, quarantine)]
    return built, quarantine.close(len(rows))


def load_rows(tmp_path: Path, *rows, **changes) -> list[dict]:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(path, **changes)[0]


def shape_of(row: dict, **changes) -> tuple[str, dict[str, str]]:
    return columns_of([Row("d:1", "d:1", row)], settings(**changes))


def turns(record: dict) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in record["prompt"] + record["completion"]]


def messages(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("prompt/completion", {"prompt": "Q", "completion": "A"}),
        ("prompt/completion", {"prompt": messages(("user", "Q")), "completion": messages(("assistant", "A"))}),
        ("prompt/completion", {"prompt": "Q", "completion": messages(("assistant", "A"))}),
        ("prompt/response", {"prompt": "Q", "response": "A"}),
        ("question/answer", {"question": "Q", "answer": "A"}),
        ("alpaca", {"instruction": "Q", "output": "A"}),
        ("alpaca", {"instruction": "Q", "input": "", "output": " A\n"}),
        ("alpaca", {"instruction": "Q", "input": " ", "output": "A"}),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A"}),
        ("alpaca", {"instruction": "Q", "input": math.nan, "output": "A"}),
        ("messages", {"messages": messages(*PAIR)}),
        ("messages", {"messages": [m | {"weight": 1} for m in messages(*PAIR)]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
    ],
)
def test_shapes(tmp_path, shape, row):
    (record,) = load_rows(tmp_path, row)
    assert turns(record) == PAIR
    assert set(record) == {"id", "group", "prompt", "completion", "kind"}
    assert (record["id"], record["kind"]) == ("d.jsonl:1", "all")
    assert shape_of(row)[0] == shape


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_shape_that_fits_in_cells_reads_alike_from_every_format(tmp_path, suffix):
    rows = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Go", "input": None, "output": "Gone"},
    ]
    built, _ = load(write(tmp_path / f"d.{suffix}", rows))
    assert [turns(record) for record in built] == [
        [("user", "Add\n\n1 2"), ("assistant", "3")],
        [("user", "Go"), ("assistant", "Gone")],
    ]


def test_context_follows_the_question(tmp_path):
    (record,) = load_rows(tmp_path, {"question": "Who?", "context": "Ann came.", "answer": "Ann"})
    assert turns(record)[0] == ("user", "Who?\n\nAnn came.")


@pytest.mark.parametrize(
    "row",
    [
        {"system": "S", "prompt": "Q", "completion": "A"},
        {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"from": k, "value": v} for k, v in [("system", "S"), ("human", "Q"), ("gpt", "A")]]},
    ],
)
def test_system_message(tmp_path, row):
    (record,) = load_rows(tmp_path, row)
    assert record["prompt"] == messages(("system", "S"), ("user", "Q"))


def test_completion_is_all_from_the_first_answer_on(tmp_path):
    whole = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "Q2"), ("assistant", "A2")]
    (record,) = load_rows(tmp_path, {"messages": messages(*whole)})
    assert record["prompt"] == messages(*whole[:2])
    assert record["completion"] == messages(*whole[2:])


def test_rows_with_one_prompt_are_one_group(tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "completion": "B"}, {"prompt": "R", "completion": "A"}]
    groups = [record["group"] for record in load_rows(tmp_path, *rows)]
    assert groups[0] == groups[1] != groups[2]


def test_id_group_and_kind_can_be_given(tmp_path):
    row = {"prompt": "Q", "completion": "A", "id": 7, "group": 0, "kind": "k"}
    (record,) = load_rows(tmp_path, row)
    assert (record["id"], record["group"], record["kind"]) == ("7", "0", "k")


def test_repeated_ids_are_told_apart(tmp_path):
    rows = [{"prompt": "Q", "completion": answer, "id": "x"} for answer in "abc"]
    assert [record["id"] for record in load_rows(tmp_path, *rows)] == ["x", "x#2", "x#3"]


def test_line_endings_become_line_feeds_and_edges_are_trimmed(tmp_path):
    (record,) = load_rows(tmp_path, {"prompt": " a\r\nb\rc\td \n", "completion": "A"})
    assert record["prompt"][0]["content"] == "a\nb\nc\td"


@pytest.mark.parametrize("text", ["שלום \u200fעולם", "👩‍👩‍👧 🇩🇪 e\u0301", "a\u2028b", "ＡＢ ﬁ"])
def test_texts_are_kept_byte_for_byte(tmp_path, text):
    (record,) = load_rows(tmp_path, {"prompt": text, "completion": text})
    assert turns(record) == [("user", text), ("assistant", text)]


# --- columns --------------------------------------------------------------------------------------------------------


def test_detected_columns_are_reported_without_those_that_are_not_there():
    shape, fields = shape_of({"instruction": "Q", "output": "A", "kind": "k", "colour": "red"})
    assert shape == "alpaca"
    assert fields == {"prompt": "instruction", "completion": "output", "kind": "kind"}


def test_columns_can_be_named(tmp_path):
    columns = {"prompt": "my_column", "completion": "other", "kind": "sort"}
    (record,) = load_rows(tmp_path, {"my_column": "Q", "other": "A", "sort": "k", "prompt": "no"}, columns=columns)
    assert turns(record) == PAIR
    assert record["kind"] == "k"
    assert shape_of({"my_column": "", "other": "", "sort": ""}, columns=columns)[0] == "data.columns"


def test_named_labels_go_with_a_detected_shape():
    shape, fields = shape_of({"question": "Q", "answer": "A", "topic": "t"}, columns={"group": "topic"})
    assert (shape, fields["group"], fields["prompt"]) == ("question/answer", "topic", "question")


def test_named_column_that_is_not_there():
    with pytest.raises(
        ColumnError, match=r"data\.columns names my_colum, but x\.jsonl has the columns my_column, other"
    ):
        shape_of({"my_column": "Q", "other": "A"}, columns={"prompt": "my_colum", "completion": "other"})


def test_unknown_columns():
    with pytest.raises(
        ColumnError, match=r"x\.jsonl has the columns q, a, which fit none.*question, answer.*data\.columns"
    ):
        shape_of({"q": "Q", "a": "A"})


def test_file_without_rows(tmp_path):
    with pytest.raises(ColumnError, match=r"d\.jsonl has no row with columns"):
        load_rows(tmp_path)
    with pytest.raises(ColumnError, match=r"data\.columns names q, but .*d\.jsonl has no row with columns"):
        load_rows(tmp_path, columns={"prompt": "q", "completion": "a"})


def test_a_bad_first_row_does_not_hide_the_shape(tmp_path):
    built, left_out = load(
        write(tmp_path / "d.jsonl", [{"prompt": "Q"}, {"prompt": "Q", "completion": "A"}]), on_error="quarantine"
    )
    assert len(built) == 1
    assert left_out["causes"] == {"missing": 1}


# --- bad rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cause", "reason"),
    [
        (None, "null", "is null"),
        (math.nan, "nan", "is NaN"),
        (3, "wrong_type", "must be text, but is the number 3"),
        (True, "wrong_type", "is a bool"),
        ({"a": 1}, "wrong_type", "is a dict"),
        ("", "empty", "is empty"),
        (" \n\u3000", "empty", "is empty"),
        ("a\ud800b", "surrogate", "half a surrogate pair, U+D800"),
        ("a\x00b", "control_character", "control character U+0000 at position 1"),
        ("ab\x1b[0m", "control_character", "U+001B"),
        ("it\x92s", "control_character", "U+0092"),  # an apostrophe of Windows-1252 read as Latin-1
        ("\x0c", "control_character", "U+000C"),
        ("x" * 100_001, "too_long", "has 100001 characters"),
        ("x" * 10_000_000, "too_long", "has 10000000 characters"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_bad_text_is_named(tmp_path, column, value, cause, reason):
    good = {"prompt": "Q", "completion": "A"}
    row = Row("d:2", "d:2", good | {column: value})
    quarantine = Quarantine(tmp_path / "q.jsonl", "quarantine")
    list(build([Row("d:1", "d:1", good), row], {"prompt": "prompt", "completion": "completion"}, quarantine))
    assert quarantine.close(2) == {"rows": 1, "causes": {cause: 1}, "file": (tmp_path / "q.jsonl").as_posix()}
    (entry,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (entry["where"], entry["column"], entry["cause"]) == ("d:2", column, cause)
    assert reason in entry["reason"]
    assert len(json.dumps(entry)) < 1000  # a long cell is not written out again


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_cells_are_named_in_every_format(tmp_path, suffix):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": None, "completion": "A"}, {"prompt": "Q", "completion": ""}]
    _, left_out = load(write(tmp_path / f"d.{suffix}", rows), on_error="quarantine")
    # CSV cannot tell "no value" from "no text"
    assert left_out["causes"] == ({"null": 2} if suffix == "csv" else {"empty": 1, "null": 1})


@pytest.mark.parametrize("suffix", FORMATS)
def test_clean_rows_leave_no_quarantine(tmp_path, suffix):
    (tmp_path / "quarantine.jsonl").write_text("of an earlier run")
    _, left_out = load(write(tmp_path / f"d.{suffix}", [{"prompt": "Q", "completion": "A"}]))
    assert left_out == {"rows": 0, "causes": {}, "file": None}
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_nan_column_of_a_parquet_file(tmp_path):
    """What pandas makes of a column in which nothing was filled in."""
    rows = [{"prompt": "Q", "completion": math.nan}, {"prompt": "Q", "completion": 2.5}]
    with pytest.raises(
        RowError, match=r"d\.parquet row 1: column completion is NaN.*row 2: column completion must be text"
    ):
        load(write(tmp_path / "d.parquet", rows))


@pytest.mark.parametrize(
    ("value", "column", "cause"),
    [
        ("text", "messages", "wrong_type"),
        ([], "messages", "roles"),
        (["text"], "messages[0]", "wrong_type"),
        (messages(("user", "Q")), "messages", "roles"),
        (messages(("assistant", "A")), "messages", "roles"),
        (messages(("user", "Q"), ("user", "Q")), "messages", "roles"),
        (messages(*PAIR, ("user", "Q")), "messages", "roles"),
        (messages(("user", "Q"), ("system", "S"), ("assistant", "A")), "messages", "roles"),
        (messages(("system", "S"), ("system", "S"), *PAIR), "messages", "roles"),
        (messages(("user", "Q"), ("robot", "A")), "messages[1].role", "roles"),
        ([{"role": ["user"], "content": "Q"}, {"role": "assistant", "content": "A"}], "messages[0].role", "roles"),
        ([{"content": "Q"}], "messages[0].role", "roles"),
        ([{"role": "user"}], "messages[0].content", "missing"),
        (messages(("user", "Q \ud800"), ("assistant", "A")), "messages[0].content", "surrogate"),
        (messages(("user", None), ("assistant", "A")), "messages[0].content", "null"),
    ],
)
def test_bad_messages(tmp_path, value, column, cause):
    with pytest.raises(RowError, match=r"d\.jsonl:1: column messages"):
        load_rows(tmp_path, {"messages": value})
    (entry,) = map(json.loads, (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert (entry["column"], entry["cause"]) == (column, cause)


def test_optional_cell_that_is_not_text(tmp_path):
    with pytest.raises(RowError, match=r"d\.jsonl:1: column input"):
        load_rows(tmp_path, {"instruction": "Add", "input": [1, 2], "output": "3"})


def test_bad_label(tmp_path):
    with pytest.raises(RowError, match=r"d\.jsonl:1: column group must be text, but is a list"):
        load_rows(tmp_path, {"prompt": "Q", "completion": "A", "group": ["a"]})


def test_every_bad_row_is_named(tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q"}, {"prompt": 3, "completion": "A"}]
    with pytest.raises(
        RowError, match=r"2 of 3 rows.*d\.jsonl:2: column completion is missing; .*d\.jsonl:3: column prompt"
    ):
        load_rows(tmp_path, *rows)
    built, left_out = load(write(tmp_path / "d.jsonl", rows), on_error="quarantine")
    assert [record["id"] for record in built] == ["d.jsonl:1"]
    assert left_out["causes"] == {"missing": 1, "wrong_type": 1}
