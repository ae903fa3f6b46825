"""Rows that cannot be used: what the error says, what the file holds, and when the run goes on."""

import json
import math
from pathlib import Path

import pytest

from lorabundle.core.errors import NoSupervisedTokensError, OutputError, RowError
from lorabundle.data.quarantine import Quarantine, RowProblem, printable


def filled(path: Path, on_error: str, *causes: str) -> Quarantine:
    """A quarantine with one bad row for each cause."""
    quarantine = Quarantine(path, on_error)
    for number, cause in enumerate(causes, start=1):
        quarantine.add(f"d.jsonl:{number}", RowProblem(cause, "is bad", "prompt"), {"prompt": number})
    return quarantine


def test_a_problem_names_its_column():
    assert str(RowProblem("empty", "is empty", "prompt")) == "column prompt is empty"
    assert str(RowProblem("not_json", "is not valid JSON")) == "is not valid JSON"


def test_error_names_the_rows_and_says_what_to_do(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(RowError) as caught:
        filled(path, "stop", "empty", "null").close(10)
    assert str(caught.value) == (
        "2 of 10 rows cannot be used: d.jsonl:1: column prompt is bad; d.jsonl:2: column prompt is bad "
        f"(they are in {path}). Fix or remove these rows. To go on without these rows, set data.on_error to "
        f'quarantine, in the config or with SET="data.on_error=quarantine".'
    )


def test_error_names_five_rows_and_the_file_has_all(tmp_path):
    with pytest.raises(RowError, match=r"7 of 10 rows") as caught:
        filled(tmp_path / "q.jsonl", "stop", *["empty"] * 7).close(10)
    assert "d.jsonl:5" in str(caught.value)
    assert "d.jsonl:6" not in str(caught.value)
    assert f"(all are in {tmp_path / 'q.jsonl'})" in str(caught.value)
    entries = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [entry["where"] for entry in entries] == [f"d.jsonl:{number}" for number in range(1, 8)]
    assert entries[2] == {
        "where": "d.jsonl:3",
        "column": "prompt",
        "reason": "is bad",
        "cause": "empty",
        "row": {"prompt": 3},
    }


def test_quarantine_goes_on_without_the_bad_rows(tmp_path):
    path = tmp_path / "q.jsonl"
    assert filled(path, "quarantine", "null", "empty", "null").close(10) == {
        "rows": 3,
        "causes": {"empty": 1, "null": 2},
        "file": path.as_posix(),
    }
    assert len(path.read_text().splitlines()) == 3


def test_quarantine_stops_if_no_row_is_left(tmp_path):
    with pytest.raises(RowError, match="1 of 1 rows cannot be used") as caught:
        filled(tmp_path / "q.jsonl", "quarantine", "empty").close(1)
    assert "on_error" not in str(caught.value)


@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_without_bad_rows_there_is_no_file(tmp_path, on_error):
    path = tmp_path / "q.jsonl"
    path.write_text("of an earlier run")
    assert Quarantine(path, on_error).close(10) == {"rows": 0, "causes": {}, "file": None}
    assert not path.exists()


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        Quarantine(tmp_path / "file/q.jsonl", "stop")


@pytest.mark.parametrize(
    ("causes", "error", "remedy"),
    [
        (["prompt_too_long"], NoSupervisedTokensError, "Raise data.max_length"),
        (["empty"], RowError, "Fix or remove these rows"),
        (["prompt_too_long", "empty"], RowError, r"Fix or remove these rows\. Raise data\.max_length"),
    ],
)
def test_the_error_is_of_the_cause_and_says_what_to_do(tmp_path, causes, error, remedy):
    with pytest.raises(error, match=remedy):
        filled(tmp_path / "q.jsonl", "stop", *causes).close(10)


def test_rows_of_another_encoding_come_with_the_hint(tmp_path):
    quarantine = filled(tmp_path / "q.jsonl", "stop", "not_utf8")
    quarantine.hint = lambda: "It is probably windows-1252."
    with pytest.raises(RowError, match=r"It is probably windows-1252\. Fix or remove"):
        quarantine.close(10)


def test_printable_shortens_and_survives_anything():
    row = {
        "a": "x" * 300,
        "b": math.nan,
        "c": "\ud800",
        "d": [1] * 30,
        "e": {"f": {"g": {"h": {"i": {"j": 1}}}}},
        "k": Path("p"),
    }
    shown = printable(row)
    assert shown["a"] == "x" * 200 + "… (300 characters)"
    assert shown["b"] == "nan"
    assert shown["c"] == "\\ud800"
    assert shown["d"] == [1] * 20
    json.dumps(shown, allow_nan=False).encode("utf-8")
