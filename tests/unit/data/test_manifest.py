"""Lengths and licences of the data card, by hand."""

import zipfile

import pytest

from lorabundle.data.manifest import card_licence, distribution, lengths, wheel_licences
from lorabundle.model.prompts import IGNORE_INDEX


def row(prompt: int, response: int) -> dict:
    return {"labels": [IGNORE_INDEX] * prompt + [1] * response}


def test_lengths_share_their_edges():
    found = lengths({"train": [row(3, 1), row(8, 2), row(40, 3)], "val": [row(100, 7)], "test": [row(5, 8)]})
    edges = [0, 8, 16, 24, 32, 48, 64, 96, 128]
    assert found["train"]["prompt"] == {
        "min": 3,
        "median": 8,
        "p95": 40,
        "max": 40,
        "edges": edges,
        "counts": [1, 1, 0, 0, 1, 0, 0, 0],
    }
    assert found["val"]["prompt"]["counts"] == [0, 0, 0, 0, 0, 0, 0, 1]
    assert found["test"]["response"] == {
        "min": 8,
        "median": 8,
        "p95": 8,
        "max": 8,
        "edges": edges[:5],
        "counts": [0, 1, 0, 0],
    }
    assert found["train"]["response"]["counts"] == [3, 0, 0, 0]


def test_a_value_on_an_edge_is_above_it():
    assert lengths({"train": [row(32, 1)]})["train"]["prompt"]["counts"] == [0, 0, 0, 0, 1]


def test_turns_between_responses_count_as_prompt():
    labels = [IGNORE_INDEX] * 4 + [1, 2] + [IGNORE_INDEX] * 3 + [3]
    found = lengths({"train": [{"labels": labels}]})["train"]
    assert (found["prompt"]["max"], found["response"]["max"]) == (7, 3)


def test_distribution_by_hand():
    found = distribution(list(range(1, 101)), [0, 8, 16, 128])
    assert (found["min"], found["median"], found["p95"], found["max"]) == (1, 50.5, 95, 100)
    assert found["counts"] == [7, 8, 85]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: MIT", "License: other"], {"x": "MIT"}),
        (["License: BSD"], {"x": "BSD"}),
        (["License: Copyright", "        Redistribution", "Classifier: License :: BSD License"], {"x": "BSD License"}),
        (
            ["Classifier: License :: BSD License", "Classifier: License :: MIT License"],
            {"x": "BSD License, MIT License"},
        ),
        ([], {}),
    ],
)
def test_licence_of_a_wheel(tmp_path, lines, expected):
    wheel = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "x-1.0.dist-info/METADATA", "\n".join(["Metadata-Version: 2.4", "Name: x", *lines, "", "License: no"])
        )
    assert wheel_licences({"x": wheel}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: cc-by-4.0\ntags: [a]\n---\n# Data\n", "cc-by-4.0"),
        ("---\r\nlicense: [mit, apache-2.0]\r\n---\r\n", "mit, apache-2.0"),
        ("---\ntags: [a]\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("# Data\nlicense: mit\n", ""),
    ],
)
def test_licence_of_a_dataset_card(tmp_path, text, expected):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert card_licence(tmp_path / "README.md") == expected


def test_no_dataset_card(tmp_path):
    assert card_licence(tmp_path / "README.md") == ""
