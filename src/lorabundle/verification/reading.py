"""Reads the files of an unpacked submission, which anyone can have written.

Whatever a file holds, reading it gives a value that the other checks can work with, or a `LorabundleError`: for deep nesting, NaN,
numbers that are too large to compute with, text that cannot be written.
"""

import contextlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lorabundle.core.config import Config
from lorabundle.core.config_file import load_resolved
from lorabundle.core.errors import MalformedInputError
from lorabundle.core.files import read_jsonl, require
from lorabundle.verification.differences import Difference
from lorabundle.verification.unpacked import Submission

MAX_DEPTH = 50  # the files of a run need 6
MAX_NUMBER = 1e18  # below 2**63, so that NumPy can take it as an integer; a run's largest numbers are bytes of memory
MAX_SHOWN = 80  # characters of a wrong value
REMEDY = "Ask for the archive again."


def read_object(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        MissingInputError: there is no such file.
        MalformedInputError: it is not JSON, or not as `check_plain` wants it.
    """
    try:
        value = json.loads(_require_file(path).read_bytes().decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, thousands of digits or of brackets
        raise MalformedInputError(f"{path} is not JSON that can be read ({error}). {REMEDY}") from error
    check_plain(value, path.name, MAX_NUMBER)
    return value


def read_rows(path: Path) -> list[dict]:
    """The objects of a file with one JSON object a line. Raises as `read_object` does."""
    rows = read_jsonl(_require_file(path), REMEDY)
    check_plain(rows, path.name, MAX_NUMBER)
    return rows


def read_config(submission: Submission) -> Config:
    """The run's settings.

    Raises:
        MissingInputError: there is no config.yaml.
        ConfigError: it does not hold the settings of a run.
        MalformedInputError: it cannot be read, or is another run's.
    """
    path = Path("outputs", submission.run, "config.yaml")
    try:
        with contextlib.chdir(submission.folder):
            settings = load_resolved(path)
    except (RecursionError, OSError) as error:  # deep nesting; the name of a dataset that is too long for a file system
        raise MalformedInputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    check_plain(settings.model_dump(), path.name, sys.float_info.max)
    if settings.run != submission.run:
        raise MalformedInputError(f"{path} is of the run {settings.run}, not of {submission.run}. {REMEDY}")
    return settings


def check_plain(value: Any, where: str, max_number: float, depth: int = 0) -> None:
    """Refuse a value that JSON does not have or that no file of a run holds.

    Raises:
        MalformedInputError: it is nested too deeply, has a number that is not finite or too large, text that is not Unicode, or a
            value of another type (YAML knows dates and sets).
    """
    if depth > MAX_DEPTH:
        raise MalformedInputError(f"{where} is nested too deeply. {REMEDY}")
    match value:
        case dict():
            for key, part in value.items():
                check_plain(key, where, max_number, depth + 1)
                check_plain(part, f"{where}.{key}", max_number, depth + 1)
        case list():
            for index, part in enumerate(value):
                check_plain(part, f"{where}.{index}", max_number, depth + 1)
        case str():
            if not _is_unicode(value):
                raise MalformedInputError(f"{where} has text that is not Unicode. {REMEDY}")
        case int() | float():
            if not abs(value) <= max_number:  # NaN compares as false
                raise MalformedInputError(f"{where} is not a finite number of a usual size. {REMEDY}")
        case None:
            pass
        case _:
            raise MalformedInputError(f"{where} is a {type(value).__name__}, which JSON does not have. {REMEDY}")


def differences_from_schema(where: str, schema: Any, value: Any) -> list[Difference]:
    """Each place at which a value does not have the given schema (see `json_schemas`)."""
    try:
        _validator(schema).validate_python(value, strict=True)
    except ValidationError as error:
        return [_as_difference(where, detail) for detail in error.errors(include_url=False)]
    return []


@cache
def _validator(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def _as_difference(where: str, detail: Any) -> Difference:
    place = ".".join([where, *map(str, detail["loc"])])
    if detail["type"] == "missing":
        return Difference(place, "a value", "nothing")
    expected = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    found = repr(detail["input"])
    return Difference(place, expected, found if len(found) <= MAX_SHOWN else f"{found[:MAX_SHOWN]}...")


def _require_file(path: Path) -> Path:
    if path.exists() and not path.is_file():
        raise MalformedInputError(f"{path} is a folder, not a file. {REMEDY}")
    return require(path, REMEDY)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
