"""What a submission holds: the run's files, the source tree, and documents that are made only from these.

The source tree is listed in `source_tree.txt`, which the Makefile reads too. The documents are an RO-Crate (`ro_crate`), a bill
of materials (`sbom`), a provenance statement (`slsa_provenance`), `REPRODUCE.md`, `CHECKLIST.md` and `LICENSES.md`.
`SHA256SUMS` lists every file; `sha256sum -c SHA256SUMS` checks them after unpacking.
`archive` packs what is listed here, and `verify` builds the same list again and compares.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import require, sha256_bytes
from lorabundle.submission import checklist, licences, reproduce, ro_crate, sbom, slsa_provenance
from lorabundle.submission.finished_run import FinishedRun, load_finished_run

SUMS = "SHA256SUMS"
SOURCE_TREE = Path(__file__).parent / "source_tree.txt"
RUN_FILES = [
    "config.yaml",
    "environment.json",
    "RESULTS.sha256",
    "manifest.json",
    "provenance.json",
    "train_log.jsonl",
    "metrics.json",
    "examples.jsonl",
    "samples.jsonl",
    "adapter",
    "logs",
    "stages",
]
OPTIONAL = ["quarantine.jsonl"]  # exists only if rows could not be used
DOCUMENTS = {module.NAME for module in (checklist, ro_crate, licences, slsa_provenance, reproduce, sbom)}


def source_tree() -> tuple[list[str], list[str]]:
    """What `source_tree.txt` lists: the entries, and the patterns of names that are left out below them."""
    lines = [line for line in SOURCE_TREE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [line for line in lines if line[0] != "!"], [line[1:] for line in lines if line[0] == "!"]


def source_files(root: Path) -> list[Path]:
    """The files of the source tree at `root`, relative to it, sorted. An entry that does not exist is passed over."""
    entries, _ = source_tree()
    return sorted(file.relative_to(root) for file in files_below(root / entry for entry in entries))


def files_below(entries: Iterable[Path]) -> set[Path]:
    """The entries that are files, and all files below those that are folders, except names that `source_tree.txt` leaves out."""
    _, left_out = source_tree()

    def is_kept(file: Path, entry: Path) -> bool:
        parts = file.relative_to(entry).parts
        return not any(fnmatchcase(part, pattern) for part in parts for pattern in left_out)

    return {
        file
        for entry in entries
        for file in (entry.rglob("*") if entry.is_dir() else [entry])
        if file.is_file() and is_kept(file, entry)
    }


def packed_paths(run_config: Config) -> list[Path]:
    """Every file that a submission takes from this folder, sorted.

    Raises:
        MissingInputError: a stage's result is missing.
    """
    remedy = f"Run `make all` for run {run_config.run} first: only a complete run can be packed."
    paths = [require(run_config.run_dir / name, remedy) for name in RUN_FILES]
    paths += [require(run_config.record_path("report"), remedy)]
    paths += [require(config.REPORTS / name, remedy) for name in ("results.md", "results.html", "figures")]
    paths += [run_config.run_dir / name for name in OPTIONAL]
    own = {run_config.record_path("archive"), run_config.run_dir / "logs" / "archive.log"}  # being written right now
    return sorted({*(files_below(paths) - own), *source_files(Path())})


def documents(run: FinishedRun) -> dict[str, bytes]:
    """The documents at the top of the archive, by name."""
    stated = run.environment.part("licences")
    packages = [package for lock in run.installed_locks for package in licences.locked_packages(lock, stated)]
    texts = {
        checklist.NAME: checklist.document(run, packages),
        licences.NAME: licences.document(run, packages),
        reproduce.NAME: reproduce.document(run),
        slsa_provenance.NAME: slsa_provenance.document(run),
        sbom.NAME: sbom.document(run, packages),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    return contents | {ro_crate.NAME: ro_crate.document(run, contents).encode()}


def packed_contents(run_config: Config, taken: list[Path]) -> dict[str, bytes]:
    """Every file of the submission, sorted by path: the files that are taken unchanged, the documents, and `SHA256SUMS`.

    Raises:
        MissingInputError: a stage has not completed.
        MalformedInputError: a file cannot be parsed.
        HashMismatchError: a file has changed since a stage read or wrote it.
    """
    made = documents(load_finished_run(run_config, taken))
    found = dict(sorted(({file.as_posix(): file.read_bytes() for file in taken} | made).items()))
    sums = "".join(f"{sha256_bytes(data)}  {name}\n" for name, data in found.items())
    return dict(sorted((found | {SUMS: sums.encode()}).items()))
