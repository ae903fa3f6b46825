"""A finished run as the archive's documents see it: its files' hashes, its stages' records, and what they say.

Nothing here or in the documents asks for the time, the user or the network: equal files give equal documents.
"""

from dataclasses import dataclass
from pathlib import Path

from lorabundle.core.config import Config
from lorabundle.core.errors import HashMismatchError
from lorabundle.core.files import hash_paths, read_json
from lorabundle.core.stage import STAGES
from lorabundle.core.strict_json import Fields

PACKED_STAGES = STAGES[: STAGES.index("archive")]  # the archive's own record comes after it
# Names of things of ours that have no address, as tag URIs (RFC 4151), which need none
TAG = "tag:lorabundle,2026:"


@dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run. Hashes are sha256 by path; records are in the order in which the stages run."""

    config: Config
    packed: dict[str, str]  # every file of the submission
    elsewhere: dict[str, str]  # files that a stage read or wrote and that are not in it: wheels, weights, splits
    sizes: dict[str, int]  # bytes, of the packed files
    records: dict[str, Fields]
    metrics: Fields
    manifest: Fields
    provenance: Fields
    environment: Fields

    def of_run(self, name: str) -> str:
        """Path of one of the run's files, as it stands in the archive."""
        return (self.config.run_dir / name).as_posix()

    @property
    def fingerprint(self) -> str:
        """The one hash that stands for the results (see `results`)."""
        return self.packed[self.of_run("RESULTS.sha256")]

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
        """What the base model's package states; "" if it is no package, or states none."""
        return self.manifest.part("licences").get(self.config.model.path, "")


def load_finished_run(run_config: Config, files: list[Path]) -> FinishedRun:
    """Read a run whose submission consists of `files`.

    Raises:
        MissingInputError: a stage has not completed.
        MalformedInputError: a file cannot be parsed.
        HashMismatchError: a file is not the one that a stage read or wrote.
    """
    remedy = f"Run `make all` for run {run_config.run}: the archive says how every stage ran."

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
    """Every file that the stages read or wrote, each one the same for all of them and in the archive."""
    recorded: dict[str, str] = {}
    for stage, record in records.items():
        for path, digest in (record.part("inputs") | record.part("outputs")).items():
            if recorded.setdefault(path, packed.get(path, digest)) != digest:
                wrote = next((name for name in records if path in records[name].part("outputs")), stage)
                raise HashMismatchError(
                    f"{path} is not the file that the stage {stage} read or wrote: it has changed since, or another run has "
                    f"taken its place. A submission is of one run as it was: delete the record stages/{wrote}.json of the run and "
                    f"run `make all` for it again, which then makes anew what follows from it."
                )
    return recorded
