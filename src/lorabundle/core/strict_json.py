"""JSON that another stage wrote, read strictly: a value that is missing, null or not finite is an error."""

import math
from typing import Any

from lorabundle.core.errors import MalformedInputError


class Fields(dict):
    """A JSON object in which a missing key, or a null, is an error that names the file and the key."""

    def __init__(self, values: dict, where: str, path: str = ""):
        self._where, self._path = where, path
        super().__init__(
            {key: _wrap(value, where, f"{path}{key}") for key, value in values.items() if value is not None}
        )

    def __missing__(self, key: str) -> Any:
        raise self._error(f"has no {self._path}{key}")

    def number(self, key: str, form: str, factor: float = 1) -> str:
        """The number under `key`, times `factor`, in the given format.

        Raises:
            MalformedInputError: it is missing, not a number, or not finite.
        """
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._error(f"has {value!r} for {self._path}{key}, which is not a finite number")
        return form.format(value * factor)

    def interval(self, key: str, form: str, factor: float = 1) -> str:
        """The interval [low, high] under `key`, times `factor`, as text; an empty one means that there is only one group.

        Raises:
            MalformedInputError: it is missing, or not two finite numbers.
        """
        if self[key] == []:
            return "none: one group"
        if not isinstance(self[key], list) or len(self[key]) != 2:
            raise self._error(f"has no interval [low, high] in {self._path}{key}")
        ends = Fields(dict(zip(("low", "high"), self[key], strict=True)), self._where, f"{self._path}{key}.")
        return f"{ends.number('low', form, factor)} to {ends.number('high', form, factor)}"

    def text(self, key: str) -> str:
        """The text under `key`.

        Raises:
            MalformedInputError: it is missing, or not text.
        """
        if not isinstance(self[key], str):
            raise self._error(f"has {self[key]!r} for {self._path}{key}, which is not text")
        return self[key]

    def part(self, key: str) -> "Fields":
        """The object under `key`.

        Raises:
            MalformedInputError: it is missing, or not an object.
        """
        if not isinstance(self[key], Fields):
            raise self._error(f"has {self[key]!r} for {self._path}{key}, which is not an object")
        return self[key]

    def _error(self, what: str) -> MalformedInputError:
        return MalformedInputError(
            f"{self._where} {what}. Nothing was written, because it would be incomplete. Delete the file and run `make all` again, "
            f"which creates it again."
        )


def _wrap(value: Any, where: str, path: str) -> Any:
    if isinstance(value, dict):
        return Fields(value, where, f"{path}.")
    if isinstance(value, list):
        return [_wrap(item, where, f"{path}.{index}") for index, item in enumerate(value)]
    return value
