"""Pack a finished run into `archive/submission-<run>.tar.gz`: the same inputs give the same bytes.

Beside the run's files and the source it holds documents that are made here, from these files alone: an RO-Crate (`crate`), a
bill of materials (`sbom`), a provenance statement (`provenance`), `REPRODUCE.md`, `CHECKLIST.md` and `LICENSES.md`.

Entries are sorted and carry one fixed time, owner and mode; gzip stores neither name nor time. Inside, `SHA256SUMS` lists
every file (`sha256sum -c SHA256SUMS` checks them after unpacking), and the archive's own hash lies beside it.

Run as: python -m lorabundle.archive --config config/default.yaml
"""

import gzip
import io
import logging
import stat
import sys
import tarfile
from pathlib import Path

from lorabundle import artifacts, checklist, config, crate, evidence, licences, provenance, reproduce, sbom
from lorabundle.artifacts import sha256_bytes
from lorabundle.config import Config
from lorabundle.evidence import Evidence
from lorabundle.stage import Artifacts, run_stage
from lorabundle.submission import is_built, source_files

log = logging.getLogger("lorabundle.archive")

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
MTIME = 0  # 1970-01-01, for every entry


def submission_files(run_config: Config) -> list[Path]:
    """Every file of the submission, sorted.

    Raises:
        MissingInputError: a stage's result is missing.
    """
    remedy = f"Run `make all` for run {run_config.run} first: a submission is only made of a complete run."
    paths = [artifacts.require(run_config.run_dir / name, remedy) for name in RUN_FILES]
    paths += [artifacts.require(run_config.record_path("report"), remedy)]
    paths += [artifacts.require(config.REPORTS / name, remedy) for name in ("results.md", "results.html", "figures")]
    paths += [path for path in (run_config.run_dir / name for name in OPTIONAL) if path.exists()]
    files = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])}
    own = {run_config.record_path("archive"), run_config.run_dir / "logs" / "archive.log"}  # being written right now
    results = {file for file in files - own if file.is_file() and not is_built(file)}
    return sorted({*results, *source_files(Path())})


def documents(run_evidence: Evidence) -> dict[str, bytes]:
    """The documents at the top of the archive, by name."""
    packages = licences.locked_packages()
    texts = {
        checklist.NAME: checklist.document(run_evidence, packages),
        licences.NAME: licences.document(run_evidence, packages),
        reproduce.NAME: reproduce.document(run_evidence),
        provenance.NAME: provenance.document(run_evidence),
        sbom.NAME: sbom.document(run_evidence, packages),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    return contents | {crate.NAME: crate.document(run_evidence, contents).encode()}


def pack(files: list[Path], top: str, added: dict[str, bytes]) -> bytes:
    """A tar.gz of `files`, what is `added` and their SHA256SUMS below the folder `top`: a function of names and contents."""
    contents = dict(sorted(({file.as_posix(): file.read_bytes() for file in files} | added).items()))
    executable = {file.as_posix() for file in files if file.stat().st_mode & stat.S_IXUSR}
    sums = "".join(f"{sha256_bytes(data)}  {name}\n" for name, data in contents.items())
    contents["SHA256SUMS"] = sums.encode()
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=MTIME) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in contents.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), MTIME, 0o755 if name in executable else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def run(run_config: Config) -> Artifacts:
    """Write the archive and its checksum."""
    name = f"submission-{run_config.run}"
    files = submission_files(run_config)
    added = documents(evidence.load(run_config, files))
    data = pack(files, name, added)
    archive, checksum = config.ARCHIVE / f"{name}.tar.gz", config.ARCHIVE / f"{name}.tar.gz.sha256"
    if not archive.exists() or archive.read_bytes() != data:  # a signature is of the bytes that docker/sign.sh saw
        archive.with_name(f"{archive.name}.sig").unlink(missing_ok=True)
    artifacts.atomic_write(archive, data)
    artifacts.atomic_write(checksum, f"{sha256_bytes(data)}  {archive.name}\n")
    log.info(
        "%s: %d files, %.1f MB, sha256 %s", archive, len(files) + len(added) + 1, len(data) / 1e6, sha256_bytes(data)
    )
    return Artifacts(inputs=files, outputs=[archive, checksum])


if __name__ == "__main__":
    sys.exit(run_stage("archive", run))
