"""A user's own JSONL file: shapes, and what is said about a bad one."""

import json

import pytest

from lorabundle.errors import ColumnError
from lorabundle.records import read_records


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(record):
    return [(m["role"], m["content"]) for m in record["prompt"] + record["completion"]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "completion": "A"},
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": "", "output": " A\n"},
        {"instruction": "Q", "input": " ", "output": "A"},
        {"instruction": "Q", "input": None, "output": "A"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ],
)
def test_shapes(tmp_path, row):
    (record,) = read_records(write(tmp_path / "d.jsonl", row))
    assert turns(record) == [("user", "Q"), ("assistant", "A")]
    assert set(record) == {"id", "group", "prompt", "completion", "kind"}


def test_alpaca_input_follows_the_instruction(tmp_path):
    (record,) = read_records(write(tmp_path / "d.jsonl", {"instruction": "Add", "input": "1 2", "output": "3"}))
    assert turns(record)[0] == ("user", "Add\n\n1 2")


def test_alpaca_input_that_is_no_text(tmp_path):
    with pytest.raises(ColumnError, match=r"d\.jsonl:1: column input"):
        read_records(write(tmp_path / "d.jsonl", {"instruction": "Add", "input": [1, 2], "output": "3"}))


def test_earlier_turns_are_kept(tmp_path):
    messages = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "Q2"), ("assistant", "A2")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    (record,) = read_records(write(tmp_path / "d.jsonl", row))
    assert turns(record) == messages
    assert len(record["completion"]) == 1


def test_rows_with_one_prompt_are_one_group(tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "completion": "B"}, {"prompt": "R", "completion": "A"}]
    groups = [record["group"] for record in read_records(write(tmp_path / "d.jsonl", *rows))]
    assert groups[0] == groups[1] != groups[2]


def test_group_and_kind_can_be_given(tmp_path):
    (record,) = read_records(write(tmp_path / "d.jsonl", {"prompt": "Q", "completion": "A", "group": 0, "kind": "k"}))
    assert (record["group"], record["kind"]) == ("0", "k")


def test_unknown_columns(tmp_path):
    with pytest.raises(ColumnError, match=r"d\.jsonl:1 has the columns \['answer', 'question'\].*prompt, completion"):
        read_records(write(tmp_path / "d.jsonl", {"question": "Q", "answer": "A"}))


def test_every_bad_row_is_named(tmp_path):
    rows = [
        {"prompt": "Q", "completion": "A"},
        {"prompt": "Q"},
        {"prompt": "Q", "completion": "  "},
        {"prompt": 3, "completion": "A"},
    ]
    with pytest.raises(ColumnError) as caught:
        read_records(write(tmp_path / "d.jsonl", *rows))
    message = str(caught.value)
    assert "3 of 4 rows" in message
    for part in ("d.jsonl:2: column completion is missing", "d.jsonl:3: column completion", "d.jsonl:4: column prompt"):
        assert part in message


@pytest.mark.parametrize(
    "messages",
    [
        "text",
        [{"role": "user", "content": "Q"}],
        [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q"}],
        [{"role": "robot", "content": "Q"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
        [{"role": ["user"], "content": "Q"}, {"role": "assistant", "content": "A"}],
        [{"role": "user", "content": "Q \ud800"}, {"role": "assistant", "content": "A"}],
        [{"role": "user", "content": None}, {"role": "assistant", "content": "A"}],
    ],
)
def test_bad_messages(tmp_path, messages):
    with pytest.raises(ColumnError, match=r"d\.jsonl:1: "):
        read_records(write(tmp_path / "d.jsonl", {"messages": messages}))


def test_file_without_rows(tmp_path):
    with pytest.raises(ColumnError, match="no rows"):
        read_records(write(tmp_path / "d.jsonl"))
