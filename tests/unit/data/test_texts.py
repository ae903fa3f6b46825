"""Cells as texts: what is missing, what becomes text, what cannot be used."""

import datetime
import decimal
import math

import pytest

from lorabundle.data.quarantine import RowProblem
from lorabundle.data.texts import as_text, clean, is_absent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (-0.001, "-0.001"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2026, 11, 26), "2026-11-26"),
        (datetime.datetime(2026, 11, 26, 8, 5, tzinfo=datetime.UTC), "2026-11-26T08:05:00+00:00"),
        (b"caf\xc3\xa9", "café"),
    ],
)
def test_values_as_text(value, text):
    assert as_text(value, "c") == text


@pytest.mark.parametrize(
    ("value", "cause", "reason"),
    [
        (None, "null", "is null or missing"),
        (math.nan, "nan", "is NaN"),
        (["one", "two"], "wrong_type", "is a list of 2 texts: keep one of them, as text"),
        ([1], "wrong_type", "is a list"),
        ({"text": ["x"]}, "wrong_type", "is a dict with the keys text"),
        (b"caf\xe9", "not_utf8", "byte 3"),
        ("caf\udce9 x", "not_utf8", r"caf\\xe9 x"),
        ("", "empty", "is empty"),
        (" \n\u3000", "empty", "is empty"),
        ("a\ud800b", "surrogate", "half a surrogate pair, U+D800"),
        ("a\x00b", "control_character", "control character U+0000 at position 1"),
        ("ab\x1b[0m", "control_character", "U+001B"),
        ("it\x92s", "control_character", "U+0092"),  # an apostrophe of Windows-1252 read as Latin-1
        ("\x0c", "control_character", "U+000C"),
        ("x" * 100_001, "too_long", "has 100001 characters"),
    ],
)
@pytest.mark.parametrize("keep_indent", [False, True])
def test_what_cannot_be_used_is_named(value, cause, reason, keep_indent):
    with pytest.raises(RowProblem) as caught:
        clean(value, "c", keep_indent)
    assert (caught.value.cause, caught.value.column) == (cause, "c")
    assert reason in caught.value.reason


def test_a_problem_found_while_reading_is_raised_where_the_cell_is_used():
    with pytest.raises(RowProblem, match="cannot be read"):
        clean(RowProblem("wrong_type", "cannot be read", "c"), "c")


@pytest.mark.parametrize(
    ("text", "prompt", "completion"),
    [
        (" a\r\nb\rc\td \n", "a\nb\nc\td", " a\nb\nc\td"),
        ("\n\n    return x\n    # end\n\n", "return x\n    # end", "    return x\n    # end"),
        ("  \n\t\n\ta", "a", "\ta"),
        ("a", "a", "a"),
    ],
)
def test_a_completion_keeps_its_first_indent(text, prompt, completion):
    assert clean(text, "c") == prompt
    assert clean(text, "c", keep_indent=True) == completion


@pytest.mark.parametrize("text", ["שלום \u200fעולם", "👩‍👩‍👧 🇩🇪 e\u0301", "a\u2028b", "ＡＢ ﬁ"])
def test_texts_are_kept_byte_for_byte(text):
    assert clean(text, "c") == clean(text, "c", keep_indent=True) == text


@pytest.mark.parametrize("value", [None, math.nan, "", " \n", [], {}])
def test_absent(value):
    assert is_absent(value)


@pytest.mark.parametrize("value", [0, False, "a", [0], {"a": None}])
def test_present(value):
    assert not is_absent(value)
