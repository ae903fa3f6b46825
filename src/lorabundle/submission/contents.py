"""What a submission holds: the run's files, the source, and documents that are made from these alone.

The documents are an RO-Crate (`crate`), a bill of materials (`sbom`), a provenance statement (`provenance`), `REPRODUCE.md`,
`CHECKLIST.md` and `LICENSES.md`. `SHA256SUMS` lists every file; `sha256sum -c SHA256SUMS` checks them after unpacking.
`archive` packs what this says, and `verify` makes it again and compares.
"""

from pathlib import Path

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import require, sha256_bytes
from lorabundle.submission import checklist, licences, reproduce, ro_crate, sbom, slsa_provenance
from lorabundle.submission.finished_run import FinishedRun, load_finished_run

SUMS = "SHA256SUMS"
# The source tree: what someone needs to run it all again. Built folders are left out by name.
SOURCE = (
    "Makefile",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "pyproject.toml",
    "config",
    "docker",
    "reports/reference",
    "src",
    "tests",
    ".ci",
)
BUILT = {"__pycache__", "wheels", ".pytest_cache", ".ruff_cache"}
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
OPTIONAL = ["quarantine.jsonl"]  # there only if rows could not be used
DOCUMENTS = {module.NAME for module in (checklist, ro_crate, licences, slsa_provenance, reproduce, sbom)}


def source_files(root: Path) -> list[Path]:
    """The files of the source tree at `root`, relative to it, sorted."""
    paths = [root / name for name in SOURCE]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sorted(file.relative_to(root) for file in files if not is_built(file.relative_to(root)))


def is_built(file: Path) -> bool:
    """Whether a file below the source tree was made there and is not part of it."""
    return file.name.startswith(".") or bool(BUILT & set(file.parts)) or file.suffix == ".pyc"


def packed_paths(run_config: Config) -> list[Path]:
    """Every file that a submission takes from this folder, sorted.

    Raises:
        MissingInputError: a stage's result is missing.
    """
    remedy = f"Run `make all` for run {run_config.run} first: a submission is only made of a complete run."
    paths = [require(run_config.run_dir / name, remedy) for name in RUN_FILES]
    paths += [require(run_config.record_path("report"), remedy)]
    paths += [require(config.REPORTS / name, remedy) for name in ("results.md", "results.html", "figures")]
    paths += [path for path in (run_config.run_dir / name for name in OPTIONAL) if path.exists()]
    found = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])}
    own = {run_config.record_path("archive"), run_config.run_dir / "logs" / "archive.log"}  # being written right now
    results = {file for file in found - own if file.is_file() and not is_built(file)}
    return sorted({*results, *source_files(Path())})


def documents(run: FinishedRun) -> dict[str, bytes]:
    """The documents at the top of the archive, by name."""
    packages = licences.locked_packages()
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
    """Every file of the submission, sorted by its path in it: those taken as they are, the documents, and `SHA256SUMS`.

    Raises:
        MissingInputError: a stage has not completed.
        MalformedInputError: a file cannot be parsed.
        HashMismatchError: a file is not the one that a stage read or wrote.
    """
    made = documents(load_finished_run(run_config, taken))
    found = dict(sorted(({file.as_posix(): file.read_bytes() for file in taken} | made).items()))
    sums = "".join(f"{sha256_bytes(data)}  {name}\n" for name, data in found.items())
    return dict(sorted((found | {SUMS: sums.encode()}).items()))
