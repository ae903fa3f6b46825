"""The stages run again: the folders in which they do, and what they gave compared with what was shipped."""

import glob
import os
import shutil
from pathlib import Path

from lorabundle.core.config import Data
from lorabundle.core.files import read_json, read_jsonl, require, sha256_file
from lorabundle.core.fingerprint import LISTING
from lorabundle.verification.differences import Difference, compare, compare_examples, compare_metrics
from lorabundle.verification.findings import say
from lorabundle.verification.hash_checks import read_sums
from lorabundle.verification.reading import read_config
from lorabundle.verification.unpacked import ADAPTER, CARD, RERUN, Submission, is_plain
from lorabundle.verification.value_checks import hashes_of_adapter

# Folders that the stages write: none of this checkout's may be linked into a folder in which they run again
WRITTEN = ("outputs", "data/models", "data/processed", "reports", "archive")
REMEDY = "Run `make verify` with this LEVEL again: a stage that runs again leaves the file there."


def lay_out(submission: Submission, level: str) -> None:
    """Make the folder in which the stages run again: the run's config, and links to what the stages read of this checkout.

    For `eval`, which does not train, it also gets the shipped adapter and the record of its training, which evaluation reads.
    """
    folder = RERUN[level]
    run_dir = folder / "outputs" / submission.run
    shutil.rmtree(folder, ignore_errors=True)
    (run_dir / "stages").mkdir(parents=True)
    (folder / "data").mkdir()
    shutil.copyfile(submission.run_dir / "config.yaml", folder / "config.yaml")
    run_config = read_config(submission)
    own = [
        name
        for name in (*data_paths(run_config.data), run_config.model.path)
        if not any(Path(name).is_relative_to(written) for written in WRITTEN)
    ]
    for name in ("docker", "data/raw", *own):
        target = folder / name
        if is_plain(name) and Path(name).exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(name, target.parent))
    if level == "eval":
        shutil.copytree(submission.run_dir / "adapter", run_dir / "adapter")
        shutil.copyfile(submission.run_dir / "stages/train.json", run_dir / "stages/train.json")


def data_paths(data: Data) -> list[str]:
    """The user's own data files and folders; for a glob, what it matches in this checkout."""
    return [name for path in data.paths for name in (sorted(glob.glob(path, recursive=True)) or [path])]


def trained_the_same_adapter(shipped: Submission) -> bool:
    """Whether training, run again, gave the shipped adapter's bytes."""
    found = Submission(RERUN["full"], shipped.run).run_dir / ADAPTER
    return found.is_file() and sha256_file(found) == sha256_file(shipped.run_dir / ADAPTER)


def check_rerun(shipped: Submission, level: str) -> list[Difference]:
    """What the stages gave when they ran again: equal with portable numerics, else within the tolerances.

    Raises:
        MissingInputError: the stages of this level have not run again.
    """
    found = Submission(RERUN[level], shipped.run)
    names = ["metrics.json", "examples.jsonl"] + ([LISTING, ADAPTER, "samples.jsonl"] if level == "full" else [])
    equal = [name for name in names if _sha256(shipped, name) == _sha256(found, name)]
    say(f"{level}: equal to the byte: {', '.join(equal) or 'none'}")
    result = []
    for name in ("provenance.json", "manifest.json"):  # the model and the splits are the same on every machine
        result += compare(name, *_both(shipped, found, name))
    metrics = _both(shipped, found, "metrics.json")
    if read_config(shipped).numerics == "portable":
        result += compare("metrics.json", *metrics)
        result += _compare_portable(shipped, found, level)
    else:
        is_retrained = level == "full" and ADAPTER not in equal
        examples = [read_jsonl(one.run_dir / "examples.jsonl", REMEDY) for one in (shipped, found)]
        result += _compare_adapters(shipped, found, is_retrained) if level == "full" else []
        result += compare_metrics(*metrics, is_retrained) + compare_examples(*examples, is_retrained)
    for name in ("base", "finetuned"):
        losses = [values["models"][name]["loss"] for values in metrics]
        say(f"{level}: test loss, {name}: {losses[0]:.6f} shipped, {losses[1]:.6f} found")
    return result


def _sha256(submission: Submission, name: str) -> str:
    return sha256_file(require(submission.run_dir / name, REMEDY))


def _both(shipped: Submission, found: Submission, name: str) -> list[dict]:
    return [read_json(one.run_dir / name, REMEDY) for one in (shipped, found)]


def _compare_portable(shipped: Submission, found: Submission, level: str) -> list[Difference]:
    """Differences of results that must have the same bytes."""
    name = "examples.jsonl"
    result = compare("sha256 of", *({name: _sha256(one, name)} for one in (shipped, found)))
    if level == "full":
        result += compare("sha256 of", *(read_sums(one.listing) for one in (shipped, found)))
    return result


def _compare_adapters(shipped: Submission, found: Submission, is_retrained: bool) -> list[Difference]:
    """Differences of the adapter's files. Other weights are allowed, and with them the loss in the model card."""
    may_differ = {ADAPTER, CARD} if is_retrained else set()
    return compare("sha256 of", *(hashes_of_adapter(one, may_differ) for one in (shipped, found)))
