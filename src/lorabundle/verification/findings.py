"""What verification finds: differences, which speak against the archive, and failed checks, which are bugs of ours."""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from lorabundle.core.errors import LorabundleError
from lorabundle.core.files import atomic_write
from lorabundle.verification.differences import Difference
from lorabundle.verification.unpacked import FOLDER, Submission

LOG = FOLDER / "failed-checks.log"


def say(text: str) -> None:
    """Print a line in the form of the stages' logs. Text from an archive can hold anything, a terminal's control codes too."""
    print("[verify] " + "".join(character if character.isprintable() else "?" for character in text), flush=True)


@dataclass
class Findings:
    """Differences, and the tracebacks of failed checks, in the order in which they were found."""

    differences: list[Difference] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)  # by check

    def __bool__(self) -> bool:
        return bool(self.differences or self.failures)

    def run_all(self, checks: dict[str, Callable[[Submission], list[Difference]]], submission: Submission) -> None:
        """Run checks of a submission, by name."""
        for name, check in checks.items():
            self.run(name, lambda check=check: check(submission))

    def run(self, name: str, check: Callable[[], list[Difference]]) -> bool:
        """Run a check, keep what it finds, and return whether it found nothing.

        A wrong file of the archive ends a check with an error whose `exit_code` is 2 (bad input): `check_schemas` comes first, so
        that no check works with a value of the wrong type. Any other exception is a bug in lorabundle.

        Raises:
            LorabundleError, MemoryError, OSError: the machine failed (memory, disk), not the archive.
        """
        found: list[Difference] = []
        try:
            found = check()
        except LorabundleError as error:
            if error.exit_code != 2:
                raise
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            found = [Difference(name, "files that can be read", message)]
        except (MemoryError, OSError):
            raise
        except Exception as error:
            self.failures[name] = error
        self.differences += found
        return not found and name not in self.failures

    def print(self, level: str, is_last: bool, debug: bool) -> int:
        """Print every finding, and the verdict if there is a finding or if nothing more is checked at this level.

        Returns:
            The exit code: 1 if a check failed, else 3 if there is a difference, else 0.
        """
        for difference in self.differences:
            say(f"DIFFERENCE {difference}")
        self._print_failures(debug)
        count = f"{len(self.differences)} difference{'s' * (len(self.differences) != 1)}"
        if self.failures:
            say(f"NOT VERIFIED: {len(self.failures)} of the checks failed, {count} (level {level})")
            return 1
        if self.differences or is_last:
            say(f"{'DIFFERENT' if self.differences else 'VERIFIED'}: {count} (level {level})")
        return 3 if self.differences else 0

    def _print_failures(self, debug: bool) -> None:
        tracebacks = ["".join(traceback.format_exception(error)) for error in self.failures.values()]
        if tracebacks:
            atomic_write(LOG, "\n".join(tracebacks))
        for name, error in self.failures.items():
            say(
                f"CHECK FAILED: {name}: {type(error).__name__}: {' '.join(str(error).split())} (this is a bug in lorabundle and says "
                f"nothing about the archive; the traceback is in {LOG})"
            )
        if debug:
            print("\n".join(tracebacks), end="", file=sys.stderr)
