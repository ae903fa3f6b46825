"""Rows of a dataset that cannot be used: each is named, and then the run stops or goes on without them."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from lorabundle.core.errors import LorabundleError, NoSupervisedTokensError, RowError
from lorabundle.core.files import writable, write_jsonl

NUM_NAMED = 5  # rows that the error message names; the file has all
MAX_CHARACTERS, MAX_ITEMS, MAX_DEPTH = 200, 20, 5  # how much of a row the file shows

# cause -> the error to raise if all bad rows have this cause, and what to do. For other causes: RowError, `REMEDY`
SPECIAL_CAUSES = {
    "prompt_too_long": (NoSupervisedTokensError, "Raise data.max_length, or shorten or remove these rows")
}
REMEDY = "Fix or remove these rows"


class RowProblem(ValueError):
    """Why a row cannot be used.

    Args:
        cause: short name under which such rows are counted.
        reason: what is wrong, as a sentence that starts with the column's name would go on.
        column: column or field with the problem; None if it is the row itself.
    """

    def __init__(self, cause: str, reason: str, column: str | None = None):
        super().__init__(f"column {column} {reason}" if column else reason)
        self.cause, self.reason, self.column = cause, reason, column


class Quarantine:
    """Collects the bad rows of a run, and then stops the run or not, as `data.on_error` says.

    Args:
        path: file to list them all in; that of an earlier run is removed at once.
        on_error: "stop" or "quarantine".

    Attributes:
        hint: gives the sentences about the likely encoding of the user's file, for rows that are not UTF-8.
    """

    hint: Callable[[], str] | None = None

    def __init__(self, path: Path, on_error: str):
        self.path, self.on_error = path, on_error
        self.rows: list[dict] = []
        self.messages: list[str] = []
        with writable(path):
            path.unlink(missing_ok=True)

    def add(self, where: str, problem: RowProblem, row: Any) -> None:
        """Add one bad row."""
        entry = {"where": where, "column": problem.column, "reason": problem.reason, "cause": problem.cause}
        self.rows.append(entry | {"row": printable(row)})
        if len(self.messages) < NUM_NAMED:
            self.messages.append(f"{where}: {problem}")

    def causes(self) -> dict[str, int]:
        """Number of bad rows by cause, sorted by name."""
        return dict(sorted(Counter(row["cause"] for row in self.rows).items()))

    def close(self, total: int) -> dict:
        """Write the file, if there are bad rows among `total`; returns the manifest's entry.

        Rows that cannot be used because of their encoding come with a command that converts their file.

        Raises:
            RowError, or an error of `SPECIAL_CAUSES`: there are bad rows, and `on_error` is "stop" or there are no good ones.
        """
        if not self.rows:
            return {"rows": 0, "causes": {}, "file": None}
        write_jsonl(self.path, self.rows)
        if self.on_error == "stop" or len(self.rows) == total:
            raise self._error(total)
        return {"rows": len(self.rows), "causes": self.causes(), "file": self.path.as_posix()}

    def _error(self, total: int) -> LorabundleError:
        causes = set(self.causes())
        remedies = [remedy for cause, (_, remedy) in SPECIAL_CAUSES.items() if cause in causes]
        if causes - set(SPECIAL_CAUSES):
            remedies.insert(0, REMEDY)
        if len(self.rows) < total:
            remedies.append(
                'To go on without these rows, set data.on_error to quarantine, in the config or with SET="data.on_error=quarantine"'
            )
        if "not_utf8" in causes and self.hint is not None:
            remedies.insert(0, self.hint())
        only_cause = min(causes) if len(causes) == 1 else ""
        error = SPECIAL_CAUSES[only_cause][0] if only_cause in SPECIAL_CAUSES else RowError
        more = f"; … (all are in {self.path})" if len(self.rows) > NUM_NAMED else f" (they are in {self.path})"
        advice = ". ".join(remedy.rstrip(".") for remedy in remedies)
        return error(f"{len(self.rows)} of {total} rows cannot be used: {'; '.join(self.messages)}{more}. {advice}.")


def printable(value: Any, depth: int = 0) -> Any:
    """A row as valid JSON, with long or deep values shortened."""
    if isinstance(value, str):
        text = value if len(value) <= MAX_CHARACTERS else f"{value[:MAX_CHARACTERS]}… ({len(value)} characters)"
        return text.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict) and depth < MAX_DEPTH:
        items = list(value.items())[:MAX_ITEMS]
        return {printable(str(key)): printable(item, depth + 1) for key, item in items}
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [printable(item, depth + 1) for item in value[:MAX_ITEMS]]
    return printable(shortened(value))
