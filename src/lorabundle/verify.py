"""Check a submission from its tarball alone, with this checkout's code; nothing that it holds is executed.

    check    unpack it safely and check all that needs no stage; lay out folders in which the stages can run again
    compare  compare with what the stages gave when run again

`docker/verify.sh` calls both, and runs the stages between them. By level, each with what stands before it:
hashes (hashes, locks and sources), report (scores from the answers, metrics from those, report and documents from the JSON),
eval (the splits built again, and the shipped adapter evaluated on them), full (everything run again, and the shipped adapter
evaluated too if training gave another). Prints each difference with what was expected, what was found and the tolerance; exits 3 if
there is any.

Run as: python -m lorabundle.verify check|compare --archive FILE --level hashes|report|eval|full
"""

import argparse
import filecmp
import sys
from collections.abc import Callable
from pathlib import Path

from lorabundle.core.errors import LorabundleError
from lorabundle.core.files import (
    require,
)
from lorabundle.submission import tarball
from lorabundle.verification.checks import (
    ADAPTER,
    RERUN,
    SHIPPED,
    check_adapter,
    check_documents,
    check_files,
    check_report,
    check_rerun,
    check_sources,
    check_statements,
    check_values,
    lay_out,
    say,
)
from lorabundle.verification.differences import Difference

LEVELS = ("hashes", "report", "eval", "full")
# What can lie below a run's folder beside records and logs. A record could name anything, and people load this folder
# What a re-run writes below its folder, so that nothing of the checkout's may be linked there
# Sums of thousands of floating-point numbers, which numpy adds in an order that depends on the CPU


def _attempt(level: str, check: Callable[[], list[Difference]]) -> list[Difference]:
    """The differences that a check finds; one, if a changed file ends it."""
    try:
        return check()
    except Exception as error:  # whatever a changed file leads to
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Difference(level, "files that can be read", found)]


def check_all(archive: Path, level: str) -> list[Difference]:
    """All that the level asks for before a stage runs. Without differences, what is needed to run the stages is laid out."""
    run = tarball.unpack(archive, SHIPPED)
    checks = [
        ("hashes", lambda: check_files(SHIPPED)),
        ("hashes", lambda: check_statements(SHIPPED, run)),
        ("hashes", lambda: check_sources(SHIPPED)),
        ("report", lambda: check_values(SHIPPED, run)),
        ("report", lambda: check_adapter(SHIPPED, run)),
        ("report", lambda: check_report(SHIPPED, run)),
        ("report", lambda: check_documents(SHIPPED, run)),
    ]
    differences = []
    for least, check in checks:
        if LEVELS.index(level) >= LEVELS.index(least):
            differences += _attempt(least, check)
    for place in RERUN:
        if not differences and LEVELS.index(level) >= LEVELS.index(place):
            differences += _attempt(place, lambda place=place: lay_out(run, place) or [])
    return differences


def compare_all(archive: Path, level: str) -> list[Difference]:
    """What the stages gave when they ran again. If training gave another adapter, the shipped one must give its metrics too."""
    run = tarball.unpack(archive, SHIPPED)
    differences = _attempt(level, lambda: check_rerun(run, level))
    adapters = [root / "outputs" / run / ADAPTER for root in (SHIPPED, RERUN["full"])]
    if level == "full" and not (adapters[1].is_file() and filecmp.cmp(*adapters, shallow=False)):
        differences += _attempt("eval", lambda: check_rerun(run, "eval"))
    return differences


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 no difference, 3 differences or an archive that cannot be unpacked, 2 no such archive."""
    parser = argparse.ArgumentParser(
        prog="python -m lorabundle.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["check", "compare"])
    parser.add_argument("--archive", type=Path, required=True, help="the tarball")
    parser.add_argument("--level", choices=LEVELS, required=True)
    arguments = parser.parse_args(argv)
    try:
        require(arguments.archive, "Name a submission: make verify ARCHIVE=archive/submission-<run>.tar.gz.")
        differences = {"check": check_all, "compare": compare_all}[arguments.action](arguments.archive, arguments.level)
    except LorabundleError as error:
        print(f"verify: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    for difference in differences:
        say(f"DIFFERENCE {difference}")
    if differences or arguments.action == "compare" or arguments.level not in RERUN:
        count = f"{len(differences)} difference{'s' * (len(differences) != 1)}"
        say(f"{'DIFFERENT' if differences else 'VERIFIED'}: {count} (level {arguments.level})")
    return 3 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
