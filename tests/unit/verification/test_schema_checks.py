"""JSON of any shape gives differences: never a crash, and never a failed check, which would say that the bug is ours."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorabundle import verify
from lorabundle.core.files import to_json, to_jsonl
from lorabundle.submission.finished_run import PACKED_STAGES
from lorabundle.verification.schema_checks import check_schemas, check_written
from lorabundle.verification.unpacked import SETTINGS
from tests.fake_submission import ARCHIVE, contents, lines, repack, tampered, unpacked

FILES = ["metrics.json", "manifest.json", "provenance.json", "environment.json", SETTINGS]
FILES += [f"stages/{stage}.json" for stage in PACKED_STAGES]
FILES += ["examples.jsonl", "samples.jsonl", "train_log.jsonl"]
MISSING, DEEP, SURROGATE = object(), '"a deep value"', '"half a character"'
SHAPES = {
    "list": [],
    "object": {},
    "text": "1",
    "empty text": "",
    "negative": -1,
    "fraction": 0.5,
    "huge": 10**30,
    "too large": 1e17,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "null": None,
    "true": True,
    "list of null": [None],
    "deep": json.loads(DEEP),
    "no Unicode": json.loads(SURROGATE),
    "missing": MISSING,
}


def parsed(data: bytes, name: str) -> Any:
    return [json.loads(line) for line in data.splitlines()] if name.endswith("l") else json.loads(data)


def written(value: Any, name: str) -> bytes:
    """JSON as Python writes it, which knows NaN, with what it does not write put in."""
    is_rows = name.endswith("l") and isinstance(value, list)
    text = "".join(json.dumps(row) + "\n" for row in value) if is_rows else json.dumps(value)
    return text.replace(DEEP, "[" * 5000 + "]" * 5000).replace(SURROGATE, r'"\ud800"').encode()


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value, as the keys that lead to it; of a list only the first two."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def replaced(value: Any, at: tuple, shape: Any) -> Any:
    """A copy of a JSON value with another one at a place, or without that place."""
    if not at:
        return shape
    key, *rest = at
    copy = value.copy()
    if rest or shape is not MISSING:
        copy[key] = replaced(value[key], tuple(rest), shape)
    else:
        del copy[key]
    return copy


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_a_run_are_all_tried(shipped, name):
    assert f"outputs/smoke/{name}" in contents(shipped)
    found = {path for path in contents(shipped) if path.endswith((".json", ".jsonl")) and path.startswith("outputs")}
    assert found == {f"outputs/smoke/{file}" for file in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_shape_is_a_difference(shipped, capsys, name):
    """The file is one JSON value of each shape. All lists of hashes fit."""
    files = contents(shipped)
    for label, shape in SHAPES.items():
        if shape is not MISSING:
            repack(files | {f"outputs/smoke/{name}": written(shape, name)}, sums=True)
            assert verify.main(["check", "--archive", str(ARCHIVE), "--level", "report"]) == 3, label
            assert "CHECK FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
def test_a_value_of_any_shape_is_a_difference(shipped, name):
    """Forty of the file's values, one after the other, each replaced by one of the shapes; of those whose schema is right, three."""
    path = f"outputs/smoke/{name}"
    original = contents(shipped)[path]
    value = parsed(original, name)
    cases = [(at, label) for at in places(value) for label in SHAPES if at]
    submission, of_right_form = unpacked(), 0
    for at, label in random.Random(name).sample(cases, 40):
        changed = replaced(value, at, SHAPES[label])
        (submission.folder / path).write_bytes(written(changed, name))
        differences = check_schemas(submission)
        if not differences and changed != value and of_right_form < 3:  # rendering the report takes a second
            of_right_form += 1
            findings = verify.Findings()
            findings.run_all(verify.HASHES | verify.REPORT, submission)
            assert findings.failures == {}, (at, label)
            assert findings.differences, (at, label)


def test_a_run_has_the_right_form(shipped):
    submission = unpacked()
    assert check_schemas(submission) == check_written(submission) == []


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("outputs/smoke/metrics.json", b"{", "metrics.json: expected a file that can be read"),
        ("outputs/smoke/config.yaml", b"{", "config.yaml: expected a file that can be read"),
        ("outputs/smoke/examples.jsonl", b"", "examples.jsonl: expected at least one example, found none"),
        ("docker/requirements.lock", b"\xff", "docker/requirements.lock: expected a file that can be read"),
        ("docker/assets.lock", b"", "docker/assets.lock: expected a file that can be read"),
    ],
)
def test_what_cannot_be_read_is_a_difference(shipped, name, data, where):
    (line,) = lines(check_schemas(unpacked({name: data})))
    assert line.startswith(where)


@pytest.mark.parametrize("name", [*FILES, "RESULTS.sha256", "adapter/adapter_model.safetensors", "config.yaml"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_not_a_file_is_a_difference(shipped, name, is_folder):
    submission = unpacked()
    (submission.run_dir / name).unlink()
    if is_folder:
        (submission.run_dir / name).mkdir()
    (line,) = lines(check_schemas(submission))
    assert name in line


@pytest.mark.parametrize(("model", "key"), [("base", "rouge1"), ("finetuned", "score")])
def test_all_examples_have_the_same_keys(shipped, model, key):
    """A mean over some of them would fail, or be over fewer than it says."""
    path = "outputs/smoke/examples.jsonl"
    rows = parsed(contents(shipped)[path], path)
    rows[1][model][key] = 0.5
    if key == "rouge1":
        del rows[2][model][key]
    (line,) = lines(check_schemas(unpacked({path: "".join(map(to_jsonl, rows)).encode()})))
    assert line.startswith(f"examples.jsonl.{1 if key == 'score' else 2}: expected the keys base, base.chrf")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metrics.json", b'"schema": 1,', b'"schema": 2, "schema": 1,'),
        ("examples.jsonl", b'"nats": 10.0', b'"nats": 3.0, "nats": 10.0'),
        ("stages/train.json", b'"commit"', b' "commit"'),
        ("config.yaml", b"numerics: fast", b"numerics:  fast"),
        ("config.yaml", b"seed:", b"# a comment\nseed:"),
    ],
)
def test_files_are_written_as_this_project_writes_them(shipped, name, old, new):
    """Of a key that occurs twice, two programs may read two values."""
    path = f"outputs/smoke/{name}"
    submission = unpacked(tampered(shipped, path, old, new))
    assert check_schemas(submission) == []
    (line,) = lines(check_written(submission))
    assert line.startswith(f"{path}, written again: expected ")


@pytest.mark.parametrize("data", [b'{"a": NaN}\n', b'{"a": "\\ud800"}\n', b'{"a":1}\n'])
def test_rows_that_could_not_be_used_are_written_like_the_others(shipped, data):
    (line,) = lines(check_written(unpacked({"outputs/smoke/quarantine.jsonl": data})))
    assert line.startswith("outputs/smoke/quarantine.jsonl, written again: expected ")


def test_values_of_the_users_rows_may_be_of_any_size(shipped):
    row = to_jsonl({"values": {"a": 10**30, "b": [[[1e300]]]}}).encode()
    submission = unpacked({"outputs/smoke/quarantine.jsonl": row})
    assert check_schemas(submission) == check_written(submission) == []


def test_json_that_no_check_reads_is_looked_at_too(shipped):
    submission = unpacked({"outputs/smoke/more.json": b"[" * 100_000, "outputs/smoke/other.json": to_json({}).encode()})
    (submission.run_dir / "folder.json").mkdir()
    (line,) = lines(check_written(submission))
    assert line.startswith("outputs/smoke/more.json, written again: expected JSON that can be written")
    assert Path(submission.run_dir / "other.json").is_file()
