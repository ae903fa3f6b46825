"""Whatever a file holds, reading it gives a value that can be worked with, or an error that says so."""

from typing import Any

import pytest

from lorabundle.core.errors import ConfigError, LorabundleError, MalformedInputError, MissingInputError
from lorabundle.core.files import atomic_write
from lorabundle.verification import reading
from lorabundle.verification.json_schemas import Schema
from tests.fake_submission import unpacked

CONFIG = "outputs/smoke/config.yaml"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "is not JSON that can be read"),
        (b"\xff", "is not JSON that can be read"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b"9" * 5000, "is not JSON that can be read"),
        (b"[" * 60 + b"]" * 60, "is nested too deeply"),
        (b'{"a": [0, NaN]}', "x.json.a.1 is not a finite number"),
        (b'{"a": -Infinity}', "x.json.a is not a finite number"),
        (b'{"a": 1e999}', "x.json.a is not a finite number"),
        (b'{"a": 1' + b"0" * 30 + b"}", "x.json.a is not a finite number"),
        (b'{"a": "\\ud800"}', "x.json.a has text that is not Unicode"),
        (b'{"\\ud800": 1}', "has text that is not Unicode"),
    ],
)
def test_json_that_no_stage_writes_is_refused(tmp_path, data, why):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(MalformedInputError, match=why):
        reading.read_object(tmp_path / "x.json")


def test_json_of_a_run_is_read(tmp_path):
    text = '{"a": [1, -2.5, null, true, "x", {"b": 1e17}], "p": 1e-300}'
    (tmp_path / "x.json").write_text(text)
    assert reading.read_object(tmp_path / "x.json") == {"a": [1, -2.5, None, True, "x", {"b": 1e17}], "p": 1e-300}
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert reading.read_rows(tmp_path / "x.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(("data", "why"), [(b"[]\n", "x.jsonl:1 is a list"), (b'{"a": NaN}\n', "x.jsonl.0.a is not")])
def test_rows_that_no_stage_writes_are_refused(tmp_path, data, why):
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(MalformedInputError, match=why):
        reading.read_rows(tmp_path / "x.jsonl")


@pytest.mark.parametrize("read", [reading.read_object, reading.read_rows])
def test_what_is_not_a_file_is_refused(tmp_path, read):
    with pytest.raises(MissingInputError):
        read(tmp_path / "x")
    (tmp_path / "x").mkdir()
    with pytest.raises(MalformedInputError, match="is a folder, not a file"):
        read(tmp_path / "x")


def test_settings_of_the_run_are_read(shipped):
    settings = reading.read_config(unpacked())
    assert (settings.run, settings.numerics) == ("smoke", "fast")


@pytest.mark.parametrize(
    ("old", "new", "error", "why"),
    [
        (b"run: smoke", b"run: other", MalformedInputError, "is of the run other, not of smoke"),
        (b"run: smoke", b"", ConfigError, "run: required"),
        (b"run: smoke", b"extends: default.yaml\nrun: smoke", ConfigError, "extends"),
        (b"seed: ", b"seed: " + b"[" * 5000, LorabundleError, "config.yaml"),
        (b"seed: ", b"seed: \xff", ConfigError, "is not valid YAML"),
        (b"  source: docstrings", b"  source: " + b"x" * 300 + b"/y", LorabundleError, "config.yaml"),
        (b"max_new_tokens: ", b"max_new_tokens: 9" + b"9" * 400, MalformedInputError, "is not a finite number"),
    ],
)
def test_settings_that_are_not_the_runs_are_refused(shipped, old, new, error, why):
    submission = unpacked()
    data = (submission.folder / CONFIG).read_bytes()
    assert old in data
    atomic_write(submission.folder / CONFIG, data.replace(old, new, 1))
    with pytest.raises(error, match=why) as caught:
        reading.read_config(submission)
    assert caught.value.exit_code == 2


def test_settings_that_json_does_not_have_are_refused(shipped):
    """YAML knows dates; the report shows settings as JSON."""
    submission = unpacked()
    text = (submission.folder / CONFIG).read_text()
    packages = text.partition("  packages:\n")[2].partition("  tasks: {}\n")[0]
    changed = text.replace("source: docstrings", "source: reasoning_gym").replace(f"  packages:\n{packages}", "")
    changed = changed.replace("  tasks: {}\n", "  tasks:\n    a: {seed: 1, size: 1, day: 2026-11-23}\n")
    atomic_write(submission.folder / CONFIG, changed)
    with pytest.raises(MalformedInputError, match=r"tasks\.a\.day is a date, which JSON does not have"):
        reading.read_config(submission)


class Point(Schema):
    """Two numbers, and more if need be."""

    x: float
    y: float
    __pydantic_extra__: dict[str, float]


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"x": 1, "y": 2.5, "z": 3}, []),
        ({"x": 1}, ["a.json.y: expected a value, found nothing, tolerance none"]),
        ({"x": "1", "y": True}, ["a.json.x: expected a valid number, found '1'", "a.json.y: expected a valid number"]),
        ({"x": 1, "y": 2, "z": None}, ["a.json.z: expected a valid number, found None"]),
        ([1, 2], ["a.json: expected a valid dictionary or instance of Point, found [1, 2]"]),
        ({"x": "1" * 500, "y": 1}, [f"a.json.x: expected a valid number, found '{'1' * 79}..., tolerance"]),
    ],
)
def test_differences_from_a_form(value, lines):
    found = [str(difference) for difference in reading.differences_from_schema("a.json", Point, value)]
    assert len(found) == len(lines)
    assert all(text.startswith(line) for text, line in zip(found, lines, strict=True)), found


def test_any_value_has_the_form_any():
    assert reading.differences_from_schema("a", Any, [object]) == []
