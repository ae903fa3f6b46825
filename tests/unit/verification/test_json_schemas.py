"""Forms take what the stages write, and nothing of another type."""

import copy

import pytest

from lorabundle.evaluation.aggregate import summarise
from lorabundle.verification import json_schemas
from lorabundle.verification.reading import differences_from_schema
from tests.fake_run import examples, metrics, samples
from tests.fake_submission import default_files


def lines(schema, value) -> list[str]:
    return [str(difference) for difference in differences_from_schema("x", schema, value)]


def test_files_of_a_run_have_their_forms():
    files = default_files()
    for name in ("metrics.json", "manifest.json", "provenance.json", "environment.json"):
        assert lines(json_schemas.OBJECTS[name], files[name]) == []
    for name, rows in json_schemas.ROWS.items():
        assert lines(list[rows], files[name]) == []
    assert lines(list[json_schemas.Sample], samples()) == []


def test_files_of_tasks_with_right_answers_have_their_forms():
    rows = examples()
    for row in rows:
        row["majority"] = {"text": "1", "score": 0.0}
        for model in ("base", "finetuned"):
            row[model]["score"] = 1.0
    assert lines(list[json_schemas.Example], rows) == []
    values = metrics() | summarise(rows, seed=1)
    assert "accuracy" in values["models"]["base"]
    assert "majority" in values["kinds"]["sum"]
    assert lines(json_schemas.Metrics, values) == []


@pytest.mark.parametrize(
    "origin",
    [
        {"repo_id": "owner/name", "revision": "a" * 40},
        {"folder": "data/local"},
        {"wheel": "x.whl", "wheel_sha256": "a" * 64, "gguf": "x.gguf", "gguf_sha256": "b" * 64},
    ],
)
def test_models_come_from_three_places(origin):
    assert lines(json_schemas.Origin, origin) == []


@pytest.mark.parametrize(
    ("schema", "value", "line"),
    [
        (
            json_schemas.Origin,
            {"repo_id": "owner/", "revision": "a" * 40},
            "x.repo_id: expected String should match pattern",
        ),
        (json_schemas.Origin, {"revision": "main"}, "x.revision: expected String should match pattern"),
        (json_schemas.Change, {"mean": 0.5, "ci95": [0.1]}, "x.ci95: expected [low, high], or [] for a single group"),
        (json_schemas.Change, {"mean": 0.5, "ci95": [0.1, "0.2"]}, "x.ci95.1: expected a valid number"),
        (json_schemas.Change, {"mean": None, "ci95": []}, "x.mean: expected a valid number, found None"),
        (json_schemas.LogEntry, {"step": 1, "loss": None}, "x.loss: expected a valid number"),
        (json_schemas.Majority, {"text": "x"}, "x.score: expected a value, found nothing"),
    ],
)
def test_values_of_another_type(schema, value, line):
    (found,) = lines(schema, value)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("edges", "counts"), [([0, 10, 20], [1]), ([0, 10, 10], [1, 1]), ([10, 0], [1]), ([0], []), ([0, 1], [-1])]
)
def test_histograms_have_bins(edges, counts):
    histogram = {"min": 0, "median": 1, "p95": 2, "max": 3, "edges": [0, 10, 20], "counts": [1, 1]}
    assert lines(json_schemas.Bins, histogram) == []
    assert len(lines(json_schemas.Bins, histogram | {"edges": edges, "counts": counts})) == 1


@pytest.mark.parametrize("reference", ["", " ", "\n\t"])
def test_a_reference_has_a_word(reference):
    """BLEU divides by the length of all references."""
    row = copy.deepcopy(examples()[0]) | {"reference": reference}
    (line,) = lines(json_schemas.Example, row)
    assert line.startswith("x.reference: expected a text with a word")


@pytest.mark.parametrize(
    ("time", "is_utc"),
    [
        ("2026-11-23T10:00:00+00:00", True),
        ("2026-11-23T10:00:00", False),
        ("2026-11-23T10:00:00+02:00", False),
        ("x", False),
    ],
)
def test_times_are_in_utc(time, is_utc):
    assert (lines(json_schemas.Time, time) == []) == is_utc


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "4", None])
def test_sizes_are_whole_numbers_above_zero(tokens):
    assert len(lines(json_schemas.Size, tokens)) == 1
    assert lines(json_schemas.Size, 1) == []
