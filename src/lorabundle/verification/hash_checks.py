"""Checks of hashes: `SHA256SUMS`, what the run's files say of hashes, and the source tree compared with this checkout's."""

import re
import stat
from collections import defaultdict
from pathlib import Path

from lorabundle.core.errors import LorabundleError
from lorabundle.core.files import sha256_file
from lorabundle.core.fingerprint import LISTING
from lorabundle.submission.contents import DOCUMENTS, SUMS, source_files
from lorabundle.submission.finished_run import PACKED_STAGES
from lorabundle.verification.differences import Difference, compare
from lorabundle.verification.findings import say
from lorabundle.verification.json_schemas import Record
from lorabundle.verification.reading import differences_from_schema, read_object
from lorabundle.verification.unpacked import KNOWN_FILES, Submission, is_plain

LINE = re.compile(r"([0-9a-f]{64})  (.+)", re.DOTALL)
NO_FILE = "no such file"


def read_sums(path: Path) -> dict[str, str]:
    """A file in `sha256sum`'s form: sha256 by path. Any other line, also a comment, is a key itself."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text.removesuffix("\n").split("\n")  # not splitlines(), which splits at other characters too
    matches = [(LINE.fullmatch(line), line) for line in lines]
    return {match[2] if match else line: match[1] if match else "no sha256 and path" for match, line in matches}


def check_files(submission: Submission) -> list[Difference]:
    """Every file against `SHA256SUMS`: none missing, none added, none changed."""
    listed = read_sums(submission.folder / SUMS)
    found = {path: sha256_file(submission.folder / path) for path in submission.paths() if path != SUMS}
    say(f"hashes: {len(found)} files compared with {SUMS}")
    return [
        Difference(name, listed.get(name, f"no such file in {SUMS}"), found.get(name, NO_FILE))
        for name in sorted(listed.keys() | found.keys())
        if listed.get(name) != found.get(name)
    ]


def check_statements(submission: Submission) -> list[Difference]:
    """What the run's own files say of hashes, against the files and against each other.

    `RESULTS.sha256` and the stage records name inputs and outputs. Some are not in the archive (splits, weights): of these all
    must say the same.
    """
    statements: dict[str, dict[str, str]] = defaultdict(dict)  # path -> {file that names it: sha256}
    for path, digest in read_sums(submission.listing).items():
        if not path.endswith("above its section This run"):  # a part of a file; check_report compares it
            statements[path][LISTING] = digest
    records, result = _read_records(submission)
    for name, record in records.items():
        command = ["python", "-m", f"lorabundle.{Path(name).stem}", "--config"]
        result += compare(f"{name}.command", command, record["command"][:4])
        for role in ("inputs", "outputs"):
            for path, digest in record[role].items():
                statements[path][f"{name} ({role})"] = digest
    result += _unrecorded(submission, {path for record in records.values() for path in record["outputs"]})
    for path, said in statements.items():
        file = submission.folder / path
        place, expected = next(iter(said.items()))
        if is_plain(path) and file.is_file():
            place, expected = "the archive", sha256_file(file)
        result += [
            Difference(f"{path}, in {where}", f"{expected} as in {place}", digest)
            for where, digest in said.items()
            if digest != expected
        ]
    say(f"hashes: {LISTING} and the stage records name {len(statements)} files")
    return result


def _read_records(submission: Submission) -> tuple[dict[str, dict], list[Difference]]:
    """The stage records by name, and what is wrong with those that do not have the schema of a record."""
    records, differences = {}, []
    for path in sorted((submission.run_dir / "stages").glob("*.json")):
        name = f"stages/{path.name}"
        try:
            record = read_object(path)
            wrong = differences_from_schema(name, Record, record)
        except LorabundleError as error:
            wrong = [Difference(name, "a file that can be read", str(error))]
        differences += wrong
        records |= {} if wrong else {name: record}
    return records, differences


def _unrecorded(submission: Submission, outputs: set[str]) -> list[Difference]:
    """Files that belong neither to the source, nor to the documents, nor to a record's outputs; and outputs that are missing."""
    run_dir = f"outputs/{submission.run}"
    known = {SUMS} | DOCUMENTS | {path.as_posix() for path in source_files(submission.folder)}
    found = {path for path in submission.paths() if path not in known}
    expected = {f"{run_dir}/config.yaml"}
    expected |= {f"{run_dir}/stages/{stage}.json" for stage in PACKED_STAGES}
    expected |= {f"{run_dir}/logs/{stage}.log" for stage in PACKED_STAGES}
    expected |= {
        path for path in outputs if path.removeprefix(f"{run_dir}/") in KNOWN_FILES or path.startswith("reports/")
    }
    missing = [Difference(path, "a file", NO_FILE) for path in sorted(expected - found)]
    return missing + [
        Difference(path, f"{NO_FILE}: it does not belong to the run", "a file") for path in sorted(found - expected)
    ]


def check_sources(submission: Submission) -> list[Difference]:
    """Code, docs, configs and locks against this checkout's, and which files are executable.

    A config that only one of the two has is the author's or the checker's own. It is not compared: no code reads it, and the run's
    settings are in its `config.yaml`.
    """
    roots = (Path(), submission.folder)
    own, shipped = ({path.as_posix() for path in source_files(root)} for root in roots)
    result = []
    for name in sorted(own | shipped):
        digests = [sha256_file(root / name) if (root / name).is_file() else NO_FILE for root in roots]
        if Path(name).match("config/*.yaml") and NO_FILE in digests:
            say(f"sources: {name} exists on one side only and is not compared")
        elif digests[0] != digests[1]:
            result.append(Difference(f"{name}, of this checkout and of the archive", *digests))
    executable = [
        {name for name in names if (root / name).stat().st_mode & stat.S_IXUSR}
        for root, names in zip(roots, (own, submission.paths()), strict=True)
    ]
    for name in sorted(executable[0] ^ executable[1]):
        modes = ["executable" if name in names else "not executable" for names in executable]
        result.append(Difference(f"{name}, of this checkout and of the archive", *modes))
    say(f"sources: {len(own | shipped)} files compared with this checkout's")
    return result
