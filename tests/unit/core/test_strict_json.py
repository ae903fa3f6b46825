"""Values of other stages' JSON, or an error that names the place."""

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields

VALUES = {"a": {"b": [{"c": 1.25}], "ci95": [0.1, 0.2]}, "n": None, "t": "text", "flag": True}


@pytest.fixture
def fields():
    return Fields(VALUES, "x.json")


def test_values(fields):
    assert fields.part("a")["b"][0].number("c", "{:.1f}", 2) == "2.5"
    assert fields.part("a").interval("ci95", "{:.0f}", 100) == "10 to 20"
    assert fields.text("t") == "text"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f["x"], r"x\.json has no x\. "),
        (lambda f: f["n"], r"x\.json has no n\. "),
        (lambda f: f.part("a")["b"][0]["d"], r"x\.json has no a\.b\.0\.d\. "),
        (lambda f: f.number("t", "{}"), r"has 'text' for t, which is not a finite number"),
        (lambda f: f.number("flag", "{}"), r"has True for flag, which is not a finite number"),
        (lambda f: f.text("a"), r"for a, which is not text"),
        (lambda f: f.part("t"), r"has 'text' for t, which is not an object"),
        (lambda f: f.interval("t", "{}"), r"has no interval \[low, high\] in t"),
        (lambda f: Fields({"ci": [1, "2"]}, "y").interval("ci", "{}"), r"y has '2' for ci\.high"),
        (lambda f: Fields({"ci": [1]}, "y").interval("ci", "{}"), r"y has no interval"),
        (lambda f: Fields({"v": float("nan")}, "y").number("v", "{}"), r"y has nan for v"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named(fields, read, message):
    with pytest.raises(MalformedInputError, match=message):
        read(fields)
