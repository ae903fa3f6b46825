"""Which files are a run's results, and one hash over all of them: the run's fingerprint.

Two runs of one config must have the same results, byte for byte. Times, hosts and memory are in other files.
`outputs/<run>/RESULTS.sha256` lists the results (`sha256sum -c` checks them); the sha256 of that list is the fingerprint.
"""

from pathlib import Path

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import hash_paths, read_json, require, sha256_bytes

LISTING = "RESULTS.sha256"
DATA_FIRST = "Run `make data` first."


def check_splits(run_config: Config) -> dict:
    """The manifest of `data/processed/`, if its splits are this run's.

    Raises:
        MissingInputError: they are another run's, whose test rows may be this run's training rows.
    """
    manifest = read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    if manifest != read_json(run_config.run_dir / "manifest.json", DATA_FIRST):
        raise MissingInputError(
            f"data/processed/ holds the splits of another run, not of {run_config.run}, so its test rows may be among this run's "
            f"training rows. Run `make data` for this run first."
        )
    return manifest


def paths(run_config: Config) -> list[Path]:
    """The result files and folders, without the report, of which only a part is a result."""
    splits = [config.PROCESSED / name for name in config.SPLITS]
    names = ("adapter", "manifest.json", "metrics.json", "examples.jsonl", "samples.jsonl")
    return [*splits, *(run_config.run_dir / name for name in names)]


def listing(run_config: Config, report: str) -> str:
    """The content of `RESULTS.sha256`.

    Args:
        run_config: of a run that has been evaluated and sampled.
        report: `results.md` without its last section, which says where and when the run was made. Its line begins with
            `#`, so that `sha256sum -c` skips it.

    Raises:
        MissingInputError: a result is not there.
    """
    check_splits(run_config)
    remedy = f"Run `make all` for run {run_config.run} first."
    return listing_of(hash_paths([require(path, remedy) for path in paths(run_config)]), report)


def listing_of(hashes: dict[str, str], report: str) -> str:
    """The content of `RESULTS.sha256` for results whose sha256 by path is known; `report` is as in `listing`."""
    lines = [f"{digest}  {path}\n" for path, digest in sorted(hashes.items(), key=lambda item: Path(item[0]))]
    above = f"# {sha256_bytes(report.encode())}  {config.REPORTS / 'results.md'}, above its section This run\n"
    return "".join([*lines, above])
