"""A finished run as the archive's documents need it: the hashes of its files, its records and its JSON files.

Neither this nor the documents read the time, the user's name or the network: equal files give equal documents.
"""

from dataclasses import dataclass
from pathlib import Path

from lorabundle.core.config import Config
from lorabundle.core.errors import HashMismatchError
from lorabundle.core.files import hash_paths, read_json
from lorabundle.core.locks import installed_locks
from lorabundle.core.stage import STAGES
from lorabundle.core.strict_json import Fields

PACKED_STAGES = STAGES[: STAGES.index("archive")]  # the archive's own record is written after it
# Our own identifiers are tag URIs (RFC 4151), which need no web address
TAG = "tag:lorabundle,2026:"


@dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run. Hashes are sha256 by path; records are in the order in which the stages run."""

    config: Config
    packed: dict[str, str]  # every file of the submission
    elsewhere: dict[str, str]  # files that a stage read or wrote but that are not in it: wheels, weights, splits
    sizes: dict[str, int]  # bytes, of the packed files
    records: dict[str, Fields]
    metrics: Fields
    manifest: Fields
    provenance: Fields
    environment: Fields

    def of_run(self, name: str) -> str:
        """Path of one of the run's files in the archive."""
        return (self.config.run_dir / name).as_posix()

    @property
    def fingerprint(self) -> str:
        """The one hash that identifies the results (see `core/fingerprint`)."""
        return self.packed[self.of_run("RESULTS.sha256")]

    @property
    def runtime_lock(self) -> Path:
        """The lock of the packages that trained it."""
        return self.installed_locks[0]

    @property
    def installed_locks(self) -> tuple[Path, Path]:
        """The locks of all that it was trained with: these packages, and the OpenMP runtime."""
        return installed_locks(self.environment.text("platform"))

    @property
    def started(self) -> str:
        """When the first stage began."""
        return min(record.text("started_at") for record in self.records.values())

    @property
    def finished(self) -> str:
        """When the last stage ended: the time that the documents carry."""
        return max(record.text("ended_at") for record in self.records.values())

    @property
    def model_licence(self) -> str:
        """The licence that the base model's package states; "" if it states none or is not a package."""
        return self.manifest.part("licences").get(self.config.model.path, "")


def load_finished_run(run_config: Config, files: list[Path]) -> FinishedRun:
    """Read a run whose submission consists of `files`.

    Raises:
        MissingInputError: a stage has not completed.
        MalformedInputError: a file cannot be parsed.
        HashMismatchError: a file has changed since a stage read or wrote it.
    """
    remedy = f"Run `make all` for run {run_config.run}: the archive needs the record of every stage."

    def read(path: Path) -> Fields:
        return Fields(read_json(path, remedy), path.name)

    records = {stage: read(run_config.record_path(stage)) for stage in PACKED_STAGES}
    packed = hash_paths(files)
    recorded = _recorded(records, packed)
    names = ("metrics", "manifest", "provenance", "environment")
    return FinishedRun(
        config=run_config,
        packed=packed,
        elsewhere={path: digest for path, digest in sorted(recorded.items()) if path not in packed},
        sizes={file.as_posix(): file.stat().st_size for file in files},
        records=records,
        **{name: read(run_config.run_dir / f"{name}.json") for name in names},
    )


def _recorded(records: dict[str, Fields], packed: dict[str, str]) -> dict[str, str]:
    """sha256 of every file that a stage read or wrote. All stages and the archive must agree on each."""
    recorded: dict[str, str] = {}
    for stage, record in records.items():
        for path, digest in (record.part("inputs") | record.part("outputs")).items():
            if recorded.setdefault(path, packed.get(path, digest)) != digest:
                wrote = next((name for name in records if path in records[name].part("outputs")), stage)
                raise HashMismatchError(
                    f"{path} is not the file that the stage {stage} read or wrote: it was changed, or another run has replaced it. "
                    f"A submission must hold the files of one run: delete its record stages/{wrote}.json and run `make all` for it "
                    f"again, which rebuilds everything that follows."
                )
    return recorded
