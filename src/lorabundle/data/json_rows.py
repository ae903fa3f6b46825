"""Rows of JSON files, whatever their form: one object a line, an array, objects one after another, rows below a key, pandas' forms.

The form is decided by the content, never by the file's name. The standard library parses each row; the code here only finds where it
starts, and reads on until it is complete, so that memory holds one row and not the file. (Rows below an unusual key, and pandas'
forms, are read at once.) Python's own parser is used rather than a streaming library because it accepts NaN, which pandas writes, and
says at which character a row is wrong.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lorabundle.core.config import SPLIT_NAMES
from lorabundle.core.errors import MalformedInputError
from lorabundle.data.quarantine import RowProblem

CHUNK = 1 << 18  # characters read at a time; more, if a row is longer
LARGEST_ROW = 1 << 26  # characters: a bracket that is never closed makes the rest of the file one row
SAMPLE_LINES = 20
# Keys below which files have their rows; those of SPLIT_NAMES are splits
ROW_KEYS = {"data", "rows", "examples", "instances", "items", "records", "samples", "dataset", "questions", "entries"}
MESSAGE_KEYS = {"role", "from"}  # a list of objects with one of these is a conversation
BLANK = re.compile(r"\s*")


class JsonRow(NamedTuple):
    """A row: its number (of its line, if `is_line`), what was read, its problem and, if the file says it, its split."""

    number: int
    values: Any
    problem: RowProblem | None = None
    split: str = ""


class _Objects:
    """Builds objects, and notes keys that stand twice in one: Python's parser takes the last without a word."""

    def __init__(self):
        self.repeated: str | None = None
        self.decoder = json.JSONDecoder(object_pairs_hook=self._build)

    def _build(self, pairs: list[tuple[str, Any]]) -> dict:
        values = dict(pairs)
        if len(values) < len(pairs) and self.repeated is None:
            keys = [key for key, _ in pairs]
            self.repeated = next(key for key in keys if keys.count(key) > 1)
        return values

    def problem(self, place: str = "") -> RowProblem | None:
        """The problem of the value that was decoded last, if a key was there twice."""
        key, self.repeated = self.repeated, None
        return RowProblem("duplicate_key", f"has the key {key!r} twice{place}", None) if key is not None else None


def json_rows(path: Path, file: TextIO) -> tuple[str, bool, Iterator[JsonRow]]:
    """(the file's form, whether rows are numbered by their lines, its rows).

    Raises:
        MalformedInputError: it holds no rows in a known form; the message says what it holds.
    """
    lines = (line for line in enumerate(file, start=1) if line[1].strip())
    sample = list(islice(lines, SAMPLE_LINES))
    if not sample:
        raise MalformedInputError(f"{path} is empty. Name a file with rows.")
    start = sample[0][1].lstrip()
    if start[:1] not in "{[":
        raise MalformedInputError(
            f"{path} is not JSON: it starts with {start[:40]!r}. Write one JSON object a line, or an array of objects; a table needs the "
            f"suffix .csv."
        )
    if _is_one_a_line([line for _, line in sample]):
        return "one JSON value a line", True, _line_rows(sample, lines)
    # with the blank lines between them, so that lines are counted right
    text, last = "", 0
    for number, line in sample:
        text, last = text + "\n" * (number - last - 1) + line, number
    return "a JSON document", False, _Document(path, text, file).rows()


def _is_one_a_line(lines: list[str]) -> bool:
    """Whether each line is a value of its own: the first is, or it is broken and most others are."""
    complete = [_is_complete(line) for line in lines]
    if len(lines) == 1:
        return complete[0] and lines[0].lstrip().startswith("{") and _is_row(json.loads(lines[0]))
    return complete[0] or sum(complete) > len(lines) / 2


def _is_complete(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except (RecursionError, ValueError):
        return False


def _line_rows(sample: list[tuple[int, str]], lines: Iterator[tuple[int, str]]) -> Iterator[JsonRow]:
    objects = _Objects()
    for source in (sample, lines):
        for number, line in source:
            text = line.rstrip("\r\n")
            try:
                value = objects.decoder.decode(text)
            except json.JSONDecodeError as error:
                yield JsonRow(
                    number, text, RowProblem("not_json", f"is not valid JSON ({error.msg} at column {error.colno})")
                )
            except (RecursionError, ValueError) as error:  # thousands of brackets, a number of thousands of digits
                yield JsonRow(number, text, RowProblem("not_json", f"is not JSON that can be read ({error})"))
            else:
                yield _row(number, value, objects.problem())


def _row(number: int, value: Any, problem: RowProblem | None, split: str = "") -> JsonRow:
    """A value as a row: an object as it is, a list of messages as the one column `messages`."""
    if _is_conversation(value):
        value = {"messages": value}
    if not isinstance(value, dict) and problem is None:
        problem = RowProblem("not_an_object", f"is {_kind(value)}, not a JSON object")
    return JsonRow(number, value, problem, split)


class _Document:
    """A JSON text that is read piece by piece."""

    def __init__(self, path: Path, text: str, file: TextIO):
        self.path, self.text, self.file = path, text, file
        self.position, self.line, self.number, self.is_complete = 0, 1, 0, False
        self.objects = _Objects()

    def rows(self) -> Iterator[JsonRow]:
        """All rows of the text. Raises `MalformedInputError` as `json_rows` does."""
        while self.peek():
            if self.peek() == "[":
                yield from self.elements()
            elif self.peek() == "{":
                yield from self.object_rows()
            else:
                raise self.broken("is neither an object nor an array", self.position)

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            end = BLANK.match(self.text, self.position).end()
            if end < len(self.text) or not self.read_on():
                self.skip_to(end)
                return self.text[end : end + 1]

    def skip_to(self, end: int) -> None:
        self.line += self.text.count("\n", self.position, end)
        self.position = end

    def read_on(self, size: int = CHUNK) -> bool:
        """Read more of the file; False at its end. What has been used is forgotten."""
        more = "" if self.is_complete else self.file.read(size)
        self.is_complete = not more
        self.text, self.position = self.text[self.position :] + more, 0
        return bool(more)

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.broken(f"is not valid JSON: {character!r} is expected", self.position)
        self.skip_to(self.position + 1)

    def value(self) -> Any:
        """The next value, complete."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self.objects.decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # A text that goes on is cut within a string, or at its very end
                offset = error.pos - self.position  # reading on moves the text
                may_go_on = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - 8
                if not may_go_on or len(self.text) > LARGEST_ROW or not self.read_on(size):
                    raise self.broken(f"is not valid JSON: {error.msg}", self.position + offset) from error
            except (RecursionError, ValueError) as error:
                raise self.broken(f"is not JSON that can be read ({error})", self.position) from error
            else:
                if end < len(self.text) or not self.read_on(size):  # a number at the end may go on
                    self.skip_to(end)
                    return value
            size *= 2

    def elements(self, split: str = "") -> Iterator[JsonRow]:
        """The elements of an array as rows."""
        self.take("[")
        while self.peek() != "]":
            line = self.line
            value = self.value()
            self.number += 1
            yield _row(self.number, value, self.objects.problem(f" (the object starts at line {line})"), split)
            if self.peek() != "]":
                self.take(",")
        self.take("]")

    def object_rows(self) -> Iterator[JsonRow]:
        """The rows that an object holds below one of its keys, or the object as a row."""
        start, rest, found = self.line, {}, False
        self.take("{")
        while self.peek() != "}":
            key = self.value()
            self.take(":")
            if isinstance(key, str) and _holds_rows(key) and self.peek() == "[" and self.opens_with_object():
                found = True
                yield from self.elements(SPLIT_NAMES.get(key.lower(), ""))
            elif isinstance(key, str):
                if key in rest:
                    self.objects.repeated = key
                rest[key] = self.value()
            if self.peek() != "}":
                self.take(",")
        self.take("}")
        if not found:
            problem = self.objects.problem(f" (the object starts at line {start})")
            for value, split in _rows_within(self.path, rest):
                self.number += 1
                yield _row(self.number, value, problem, split)

    def opens_with_object(self) -> bool:
        """Whether the array that comes next holds objects that are not messages, as far as its start tells."""
        self.peek()
        while len(self.text) - self.position < 1000 and self.read_on():
            pass
        start = re.match(r'\[\s*(?:\{\s*"([^"]*)"|\[\s*\{)', self.text[self.position : self.position + 1000])
        return bool(start) and start[1] not in MESSAGE_KEYS

    def broken(self, what: str, position: int) -> MalformedInputError:
        line = self.line + self.text.count("\n", self.position, position)
        near = self.text[max(0, position - 20) : position + 20]
        return MalformedInputError(f"{self.path}:{line} {what}, near {near!r}. Fix that place in the file.")


def _holds_rows(key: str) -> bool:
    return key.lower() in ROW_KEYS or key.lower() in SPLIT_NAMES


def _is_row(value: dict) -> bool:
    """Whether an object looks like one row: it has a text or a list of messages, and no list of other objects or of texts only."""
    try:
        return next(_rows_within(Path(), value), (None, ""))[0] is value
    except MalformedInputError:
        return False


def _rows_within(path: Path, value: dict) -> Iterator[tuple[Any, str]]:
    """(row, split) of each row of an object: those below its keys, pandas' forms, or the object itself."""
    lists = {key: item for key, item in value.items() if _is_table(item)}
    splits = {key: item for key, item in lists.items() if key.lower() in SPLIT_NAMES}
    if splits:
        for key, items in splits.items():
            yield from ((item, SPLIT_NAMES[key.lower()]) for item in items)
        return
    known = [key for key in lists if key.lower() in ROW_KEYS] or list(lists)
    has_text = any(isinstance(item, str) for item in value.values())
    if len(known) == 1 and (known[0].lower() in ROW_KEYS or not has_text):
        yield from ((item, "") for item in lists[known[0]])
        return
    nested = [item for item in value.values() if _has_table(item)]
    if len(nested) == 1 and not has_text:
        yield from _rows_within(path, nested[0])
        return
    if rows := _of_pandas(value):
        yield from ((row, "") for row in rows)
        return
    if has_text or any(_is_conversation(item) for item in value.values()):
        yield value, ""
        return
    raise MalformedInputError(
        f"{path} is one JSON object with the keys {', '.join(value) or 'none'}, and no rows were found in it. Write one JSON object a "
        f"line, an array of objects, or the array below a key such as data."
    )


def _has_table(value: Any) -> bool:
    """Whether this is an object with rows below a key, at any depth."""
    return isinstance(value, dict) and any(_is_table(item) or _has_table(item) for item in value.values())


def _is_table(value: Any) -> bool:
    """Whether this is a list of objects that are not messages, or of conversations."""
    if not isinstance(value, list) or not value:
        return False
    is_rows = all(isinstance(item, dict) for item in value) and not _is_conversation(value)
    return is_rows or all(_is_conversation(item) for item in value)


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and MESSAGE_KEYS & set(item) for item in value)
    )


def _of_pandas(value: dict) -> list[dict]:
    """The rows of what `DataFrame.to_json` writes with orient columns, index, split or list; [] if it is none of these."""
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return [dict(zip(value["columns"], cells, strict=False)) for cells in value["data"] if isinstance(cells, list)]
    columns = list(value.values())
    if len(columns) > 1 and all(isinstance(column, list) for column in columns):
        if len(set(map(len, columns))) == 1 and not any(map(_is_conversation, columns)):
            return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
        return []
    if not columns or not all(isinstance(column, dict) for column in columns):
        return []
    if all(key.isdigit() for key in value):  # orient="index": {"0": {column: value}}
        return columns
    if all(key.isdigit() for column in columns for key in column):  # orient="columns": {column: {"0": value}}
        numbers = dict.fromkeys(number for column in columns for number in column)
        return [{name: value[name].get(number) for name in value} for number in numbers]
    return []


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, list):
        kinds = sorted({_kind(item).removeprefix("a ").removeprefix("an ") for item in value[:20]})
        return f"a list of {len(value)} ({', '.join(kinds)})" if value else "an empty list"
    names = {
        dict: "an object",
        str: "a text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names[type(value)]
