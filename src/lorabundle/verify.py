"""Check a submission, given only its tarball and this checkout's code. Nothing that the archive holds is executed.

    check    unpack it safely, check everything that needs no stage, and lay out the folders in which stages run again
    compare  compare the archive with what the stages gave when they ran again

`docker/verify.sh` calls both and runs the stages in between. Each level includes those before it:
    hashes   hashes, locks and sources
    report   scores from the answers, metrics from the scores, report and documents from the JSON files
    eval     the splits are built again, and the shipped adapter is evaluated on them
    full     everything runs again; if training gives another adapter, the shipped one is evaluated too

Prints each difference with what was expected, what was found and the tolerance. Exit codes: 0 no difference, 1 a check failed (a
bug in lorabundle; the traceback is in outputs/.verify/failed-checks.log) or the machine did, 2 no such archive, 3 differences.

Run as: python -m lorabundle.verify check|compare --archive FILE --level hashes|report|eval|full
"""

import sys
from pathlib import Path

from lorabundle.core.command import command_parser, run_command
from lorabundle.core.files import require
from lorabundle.submission import tarball
from lorabundle.verification.findings import Findings
from lorabundle.verification.hash_checks import check_files, check_sources, check_statements
from lorabundle.verification.report_checks import check_documents, check_report
from lorabundle.verification.rerun import check_rerun, lay_out, trained_the_same_adapter
from lorabundle.verification.schema_checks import check_schemas, check_written
from lorabundle.verification.unpacked import RERUN, SHIPPED, Submission
from lorabundle.verification.value_checks import check_adapter, check_scores

LEVELS = ("hashes", "report", "eval", "full")
HASHES = {"files": check_files, "statements": check_statements, "sources": check_sources}
REPORT = {
    "written": check_written,
    "scores": check_scores,
    "adapter": check_adapter,
    "report": check_report,
    "documents": check_documents,
}


def check(archive: Path, level: str) -> Findings:
    """Everything that the level asks for and that needs no stage. Without findings, also lay out where the stages run again."""
    submission = Submission(SHIPPED, tarball.unpack(archive, SHIPPED))
    findings = Findings()
    findings.run_all(HASHES, submission)
    if level != "hashes" and findings.run("schemas", lambda: check_schemas(submission)):
        findings.run_all(REPORT, submission)
    for place in RERUN:
        if not findings and LEVELS.index(level) >= LEVELS.index(place):
            lay_out(submission, place)
    return findings


def compare(archive: Path, level: str) -> Findings:
    """Compare with what the stages gave. If training gave another adapter, evaluating the shipped one must give its metrics too."""
    submission = Submission(SHIPPED, tarball.unpack(archive, SHIPPED))
    findings = Findings()
    if findings.run("schemas", lambda: check_schemas(submission)):
        findings.run(level, lambda: check_rerun(submission, level))
        if level == "full" and not trained_the_same_adapter(submission):
            findings.run("eval", lambda: check_rerun(submission, "eval"))
    return findings


def main(argv: list[str] | None = None) -> int:
    """Run one of the two actions and print what it finds; the exit codes are above."""
    parser = command_parser("verify", __doc__)
    parser.add_argument("action", choices=["check", "compare"])
    parser.add_argument("--archive", type=Path, required=True, help="the tarball")
    parser.add_argument("--level", choices=LEVELS, required=True, help="how far to go")
    arguments = parser.parse_args(argv)

    def work() -> int:
        require(arguments.archive, "Name a submission: make verify ARCHIVE=archive/submission-<run>.tar.gz.")
        action = {"check": check, "compare": compare}[arguments.action]
        findings = action(arguments.archive, arguments.level)
        is_last = arguments.action == "compare" or arguments.level not in RERUN
        return findings.print(arguments.level, is_last, arguments.debug)

    return run_command("verify", work, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
