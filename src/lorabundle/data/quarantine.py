"""Rows of a dataset that cannot be used: each is named, and the run stops or goes on without them."""

import math
from collections import Counter
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from lorabundle.core.errors import LorabundleError, NoSupervisedTokensError, RowError, TemplateError
from lorabundle.core.files import writable, write_jsonl

NAMED = 5  # rows that the error message names; the file has all
LONGEST_TEXT, LONGEST_LIST, DEEPEST = 200, 20, 5  # how much of a row the file shows

# cause -> the error that it ends the run with when no other cause is about, and what to do. Any other cause: RowError.
LATER_CAUSES = {
    "prompt_too_long": (NoSupervisedTokensError, "Raise data.max_length, or shorten or remove these rows"),
    "control_token": (TemplateError, "Remove the control tokens from the text"),
}


class RowProblem(ValueError):
    """Why a row cannot be used.

    Args:
        cause: short name under which such rows are counted.
        reason: what is wrong, to follow the column's name in a sentence.
        column: column or field at fault; None if it is the row as a whole.
    """

    def __init__(self, cause: str, reason: str, column: str | None = None):
        super().__init__(f"column {column} {reason}" if column else reason)
        self.cause, self.reason, self.column = cause, reason, column


class Quarantine:
    """Collects the bad rows of a run, and then decides by `data.on_error`.

    Args:
        path: file that names them all; one that an earlier run left is removed at once.
        on_error: "stop" or "quarantine".
    """

    def __init__(self, path: Path, on_error: str):
        self.path, self.on_error = path, on_error
        self.rows: list[dict] = []
        self.messages: list[str] = []
        with writable(path):
            path.unlink(missing_ok=True)

    def add(self, where: str, problem: RowProblem, row: Any) -> None:
        """Note one bad row."""
        known = {"where": where, "column": problem.column, "reason": problem.reason, "cause": problem.cause}
        self.rows.append(known | {"row": printable(row)})
        if len(self.messages) < NAMED:
            self.messages.append(f"{where}: {problem}")

    def causes(self) -> dict[str, int]:
        """Number of bad rows by cause, sorted by name."""
        return dict(sorted(Counter(row["cause"] for row in self.rows).items()))

    def close(self, total: int) -> dict:
        """Write the file if there are bad rows among `total`; give the manifest's entry.

        Raises:
            RowError, or the error of `LATER_CAUSES`: there are bad rows and `on_error` is "stop", or no other rows.
        """
        if not self.rows:
            return {"rows": 0, "causes": {}, "file": None}
        write_jsonl(self.path, self.rows)
        if self.on_error == "stop" or len(self.rows) == total:
            raise self._error(total)
        return {"rows": len(self.rows), "causes": self.causes(), "file": self.path.as_posix()}

    def _error(self, total: int) -> LorabundleError:
        causes = self.causes()
        remedies = [remedy for cause, (_, remedy) in LATER_CAUSES.items() if cause in causes]
        if set(causes) - set(LATER_CAUSES):
            remedies.insert(0, "Mend or remove these rows")
        otherwise = ", or set data.on_error: quarantine to go on without them" if len(self.rows) < total else ""
        error = (
            LATER_CAUSES[next(iter(causes))][0] if len(causes) == 1 and set(causes) <= set(LATER_CAUSES) else RowError
        )
        more = f"; … (all are in {self.path})" if len(self.rows) > NAMED else f" (they are in {self.path})"
        return error(
            f"{len(self.rows)} of {total} rows cannot be used: {'; '.join(self.messages)}{more}. "
            f"{'; '.join(remedies)}{otherwise}."
        )


def printable(value: Any, depth: int = 0) -> Any:
    """A row as JSON can hold it, with what is long or deep shortened."""
    if isinstance(value, str):
        text = value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
        return text.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict) and depth < DEEPEST:
        items = list(value.items())[:LONGEST_LIST]
        return {printable(str(key)): printable(item, depth + 1) for key, item in items}
    if isinstance(value, list) and depth < DEEPEST:
        return [printable(item, depth + 1) for item in value[:LONGEST_LIST]]
    return printable(shortened(value))
