"""Cells as texts: what counts as missing, which values become text, and which characters a text may not have."""

import datetime
import decimal
import math
import re
from typing import Any

from lorabundle.data.quarantine import RowProblem
from lorabundle.data.text_encoding import ESCAPED

LONGEST = 100_000  # characters of a text: a longer cell is a complete document, or several rows read as one
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # Unicode's control characters, except tab and newline
SURROGATE = re.compile("[\ud800-\udfff]")
BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


def is_absent(value: Any) -> bool:
    """Whether an optional cell is empty: blank, null, NaN, or an empty list."""
    return value is None or value != value or (isinstance(value, str) and not value.strip()) or value in ([], {})


def as_text(value: Any, column: str) -> str:
    """A cell as text: numbers, booleans and dates in their usual spelling (7, true, 2026-11-26).

    Raises:
        RowProblem: it is missing, of a type that is no text, or not of the file's encoding.
    """
    if isinstance(value, RowProblem):  # found while reading
        raise value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            shown = value.decode("utf-8", "backslashreplace")[:30]
            raise RowProblem("not_utf8", f"is not UTF-8 (byte {error.start} of {shown!r})", column) from error
    if isinstance(value, str):
        return value
    if value is None:
        raise RowProblem("null", "is null or missing", column)
    if isinstance(value, float) and math.isnan(value):
        raise RowProblem("nan", "is NaN (not a number), as missing values are often stored", column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if (
        isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    ):  # how pandas stores a column of whole numbers
        return str(int(value))
    if isinstance(value, int | float | decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    remedy = ""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        remedy = f" of {len(value)} texts: keep one of them, as text"
    elif isinstance(value, dict):
        remedy = f" with the keys {', '.join(map(str, value))}: write the text that it holds into a column of its own"
    raise RowProblem("wrong_type", f"must be text, but is a {type(value).__name__}{remedy}", column)


def clean(value: Any, column: str, keep_indent: bool = False) -> str:
    """A cell as text with line feeds as line endings and no white space around it.

    Args:
        value: as the file has it.
        column: for the message.
        keep_indent: leave the white space before the first word, as a completion's, which may be code.

    Raises:
        RowProblem: it cannot be used.
    """
    text = as_text(value, column).replace("\r\n", "\n").replace("\r", "\n")
    if ESCAPED.search(text):
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        place = max(0, shown.find("\\x") - 10)
        raise RowProblem(
            "not_utf8", f"has bytes that are not of the file's encoding, in {shown[place : place + 30]!r}", column
        )
    if found := SURROGATE.search(text):
        raise RowProblem(
            "surrogate", f"has half a surrogate pair, U+{ord(found[0]):04X}, which is not a character", column
        )
    if found := FORBIDDEN.search(text):
        reason = f"has the control character U+{ord(found[0]):04X} at position {found.start()}"
        raise RowProblem("control_character", reason, column)
    text = BLANK_LINES.sub("", text).rstrip() if keep_indent else text.strip()
    if not text.strip():
        raise RowProblem("empty", "is empty", column)
    if len(text) > LONGEST:
        raise RowProblem("too_long", f"has {len(text)} characters, more than {LONGEST}", column)
    return text
