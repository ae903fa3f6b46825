"""Rows as records: what each field becomes, and which rows cannot be used."""

import json
import math
from pathlib import Path

import pytest

from lorabundle.core.errors import RowError
from lorabundle.data.file_formats import Row, read_rows
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine
from lorabundle.data.records import build, check_built
from lorabundle.data.shapes import detect
from lorabundle.data.source_files import SourceFile
from tests.conftest import ask
from tests.unit.data.test_file_formats import FORMATS, write
from tests.unit.data.test_splits import settings

PAIR = [("user", "Q"), ("assistant", "A")]


def load(path: Path, on_error: str = "stop", **changes) -> tuple[list[dict], dict, Notes]:
    """The records of a file, the manifest's entry on those that cannot be used, and the notes."""
    rows = list(read_rows([SourceFile(path, path.name, "")], None))
    quarantine, notes = Quarantine(path.parent / "quarantine.jsonl", on_error), Notes()
    columns = detect(rows, settings(source=str(path), **changes)).columns
    built = [record for _, record in build(rows, columns, quarantine, notes)]
    return built, quarantine.close(len(rows)), notes


def load_rows(tmp_path: Path, *rows, **changes) -> list[dict]:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(path, **changes)[0]


def turns(record: dict) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in record["prompt"] + record["completion"]]


def messages(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "completion": "A"},
        {"prompt": messages(("user", "Q")), "completion": messages(("assistant", "A"))},
        {"prompt": "Q", "completion": messages(("assistant", "A"))},
        {"prompt": messages(("user", "Q")), "completion": "A"},
        {"prompt": "Q", "completion": {"role": "assistant", "content": "A"}},
        {"instruction": "Q", "output": "A\n"},
        {"instruction": "Q", "input": " ", "output": "A"},
        {"instruction": "Q", "input": None, "output": "A", "history": []},
        {"instruction": "Q", "input": math.nan, "output": "A"},
        {"instruction": "", "input": "Q", "output": "A"},
        {"instruction": None, "input": "Q", "output": "A"},
        {"messages": messages(*PAIR)},
        {"conversation": [{"human": "Q", "assistant": "A"}]},
    ],
)
def test_rows_that_say_the_same(tmp_path, row):
    (record,) = load_rows(tmp_path, row)
    assert turns(record) == PAIR
    assert set(record) == {"id", "group", "prompt", "completion", "kind", "split"}
    assert (record["id"], record["kind"], record["split"]) == ("d.jsonl:1", "all", "")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_shape_that_fits_in_cells_reads_alike_from_every_format(tmp_path, suffix):
    rows = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Go", "input": None, "output": "Gone"},
    ]
    built, _, _ = load(write(tmp_path / f"d.{suffix}", rows))
    assert [turns(record) for record in built] == [
        [("user", "Add\n\n1 2"), ("assistant", "3")],
        [("user", "Go"), ("assistant", "Gone")],
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"system": "S", "prompt": "Q", "completion": "A"},
        {"System Prompt": "S", "question": "Q", "response": "A"},
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


def test_history_comes_before_the_prompt(tmp_path):
    (record,) = load_rows(tmp_path, {"instruction": "Q2", "output": "A2", "history": [["Q", "A"]], "system": "S"})
    assert turns(record) == [("system", "S"), *PAIR, ("user", "Q2"), ("assistant", "A2")]


def test_the_group_is_the_conversations_own_unless_a_column_says_otherwise(tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "completion": "B"}, {"prompt": "R", "completion": "A"}]
    groups = [record["group"] for record in load_rows(tmp_path, *rows)]
    assert groups[0] == groups[1] != groups[2]
    row = {"prompt": "Q", "completion": "A", "id": 7, "group": 0, "kind": "k"}
    (record,) = load_rows(tmp_path, row)
    assert (record["id"], record["group"], record["kind"]) == ("7", "0", "k")


def test_repeated_ids_are_told_apart(tmp_path):
    rows = [{"prompt": "Q", "completion": answer, "id": "x"} for answer in "abc"]
    assert [record["id"] for record in load_rows(tmp_path, *rows)] == ["x", "x#2", "x#3"]


def test_splits(tmp_path):
    rows = [{"prompt": "Q", "completion": "A", "split": name} for name in ("train", "Validation", "dev", "TEST")]
    assert [record["split"] for record in load_rows(tmp_path, *rows)] == ["train", "val", "val", "test"]
    with pytest.raises(RowError, match=r"d\.jsonl:5: column split is 'extra', but must be one of train"):
        load_rows(tmp_path, *rows, {"prompt": "Q", "completion": "A", "split": "extra"})


@pytest.mark.parametrize(("yes", "no"), [(True, False), ("true", "false"), (1, 0)])
def test_rows_whose_label_is_false_are_left_out(tmp_path, yes, no):
    rows = [{"prompt": "Q", "completion": f"A{n}", "good": yes if n % 3 else no} for n in range(9)]
    path = write(tmp_path / "d.jsonl", rows)
    built, _, notes = load(path, columns={"label": "good"})
    assert len(built) == 6
    assert notes.left_out == {"label_false": 3}


def test_a_row_in_which_nothing_is_learnt_is_left_out(tmp_path):
    rows = [
        {"messages": [messages(*PAIR)[0], {"role": "assistant", "content": "A", "weight": 0}]},
        {"messages": messages(*PAIR)},
    ]
    built, _, notes = load(write(tmp_path / "d.jsonl", rows))
    assert len(built) == 1
    assert notes.left_out == {"no_turn_to_learn": 1}


def test_tools(tmp_path):
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [{"messages": messages(*PAIR), "tools": tools}, {"messages": messages(*PAIR), "tools": json.dumps(tools)}]
    assert [record["tools"] for record in load_rows(tmp_path, *rows)] == [tools, tools]
    assert "tools" not in load_rows(tmp_path, {"messages": messages(*PAIR), "tools": "[]"})[0]
    with pytest.raises(RowError, match="column tools must be a list of tools"):
        load_rows(tmp_path, {"messages": messages(*PAIR), "tools": "{}"})


# --- bad rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_a_bad_text_is_named_in_the_quarantine(tmp_path, column):
    good = {"prompt": "Q", "completion": "A"}
    rows = [Row("d:1", "d:1", good), Row("d:2", "d:2", good | {column: "x" * 10_000_000})]
    quarantine = Quarantine(tmp_path / "q.jsonl", "quarantine")
    list(build(rows, {"prompt": "prompt", "completion": "completion"}, quarantine, Notes()))
    assert quarantine.close(2) == {"rows": 1, "causes": {"too_long": 1}, "file": (tmp_path / "q.jsonl").as_posix()}
    (entry,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (entry["where"], entry["column"]) == ("d:2", column)
    assert len(json.dumps(entry)) < 1000  # a long cell is not written out again


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_cells_are_named_in_every_format(tmp_path, suffix):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": None, "completion": "A"}, {"prompt": "Q", "completion": ""}]
    _, left_out, _ = load(write(tmp_path / f"d.{suffix}", rows), on_error="quarantine")
    # CSV cannot tell "no value" from "no text"
    assert left_out["causes"] == ({"null": 2} if suffix == "csv" else {"empty": 1, "null": 1})


def test_nan_column_of_a_parquet_file(tmp_path):
    """What pandas makes of a column in which nothing was filled in; numbers in it are answers."""
    rows = [{"prompt": "Q", "completion": math.nan}, {"prompt": "Q", "completion": 2.5}]
    with pytest.raises(RowError, match=r"1 of 2 rows.*d\.parquet row 1: column completion is NaN"):
        load(write(tmp_path / "d.parquet", rows))


def test_a_cell_of_another_encoding_condemns_only_rows_that_use_it(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"prompt,completion,note\nQ,A,caf\xe9\nR,caf\xe9,x\n")
    built, left_out, _ = load(tmp_path / "d.csv", on_error="quarantine")
    assert [record["id"] for record in built] == ["d.csv:1"]
    assert left_out["causes"] == {"not_utf8": 1}


@pytest.mark.parametrize(
    "roles",
    [
        ["user"],
        ["assistant"],
        ["user", "user"],
        ["user", "assistant", "user"],
        ["user", "system", "assistant"],
        ["system", "system", "user", "assistant"],
        ["user", "tool", "assistant"],
        ["user", "assistant", "assistant"],
        ["user", "assistant", "tool"],
    ],
)
def test_roles_out_of_order(tmp_path, roles):
    rows = [{"messages": messages(*((role, "x") for role in roles))}]
    with pytest.raises(RowError, match=rf"column messages must have the roles.*it has {', '.join(roles)}"):
        load_rows(tmp_path, *rows)


def test_tools_answer_the_assistant(tmp_path):
    roles = ["user", "assistant", "tool", "tool", "assistant", "user", "assistant"]
    (record,) = load_rows(tmp_path, {"messages": messages(*((role, "x") for role in roles))})
    assert len(record["completion"]) == 6


def test_optional_cell_that_is_not_text(tmp_path):
    with pytest.raises(RowError, match=r"d\.jsonl:1: column input must be text, but is a list"):
        load_rows(tmp_path, {"instruction": "Add", "input": [1, 2], "output": "3"})


def test_every_bad_row_is_named(tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q"}, {"prompt": {"a": 1}, "completion": "A"}]
    with pytest.raises(
        RowError, match=r"2 of 3 rows.*d\.jsonl:2: column completion is missing; .*d\.jsonl:3: column prompt"
    ):
        load_rows(tmp_path, *rows)
    built, left_out, _ = load(write(tmp_path / "d.jsonl", rows), on_error="quarantine")
    assert [record["id"] for record in built] == ["d.jsonl:1"]
    assert left_out["rows"] == 2


def test_records_that_this_package_builds_are_checked_too(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", "quarantine")
    good, bad = ask("Q", "A"), ask("R", "it\x92s")
    assert [record["id"] for _, record in check_built([good, bad], quarantine)] == ["Q"]
    assert quarantine.causes() == {"control_character": 1}
