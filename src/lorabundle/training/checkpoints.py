"""Which checkpoint to resume from: a complete one, and of the same training.

A checkpoint's `complete.json` is written last. It has the sha256 of each of its files and the training's fingerprint.
"""

import logging
import platform
import shutil
from pathlib import Path

import lorabundle
from lorabundle.compute import precision
from lorabundle.compute.load import resolve_attention
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.errors import MalformedInputError, MissingInputError
from lorabundle.core.files import changed_files, read_json, sha256_bytes, sha256_file, write_json
from lorabundle.core.locks import runtime_lock
from lorabundle.model.architecture import FETCH_FIRST

log = logging.getLogger("lorabundle.train")

COMPLETE = "complete.json"  # written last into a checkpoint: one without it is incomplete
FINISHED = "finished.json"  # next to the checkpoints once training is over: the next run starts from the beginning
PACKAGE = Path(lorabundle.__file__).parent
CODE_FOLDERS = ("model", "compute", "training")  # what they hold decides the course of training, and so does train.py


def folder(run_config: Config) -> Path:
    """Where a run's checkpoints are."""
    return run_config.run_dir / "checkpoints"


def step_of(checkpoint: Path) -> int:
    """The number of steps after which it was saved."""
    return int(checkpoint.name.split("-")[1])


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Mark a checkpoint as complete."""
    files = {file.name: sha256_file(file) for file in sorted(checkpoint.iterdir()) if file.name != COMPLETE}
    write_json(checkpoint / COMPLETE, {"fingerprint": fingerprint, "files": files})


def mark_finished(run_config: Config, fingerprint: str) -> None:
    """Note next to the checkpoints that the training is over."""
    write_json(folder(run_config) / FINISHED, {"fingerprint": fingerprint})


def training_code() -> list[Path]:
    """The source files that decide the course of training, sorted: all in these folders, so that none can be forgotten."""
    files = [file for name in CODE_FOLDERS for file in (PACKAGE / name).rglob("*") if file.suffix in (".py", ".json")]
    return sorted([*files, PACKAGE / "train.py"])


def training_fingerprint(run_config: Config, manifest: dict) -> str:
    """Hex sha256 of everything that decides the course of training; only a checkpoint with the same one is resumed.

    Args:
        run_config: as it is trained with, after what memory allows is decided.
        manifest: of the splits.
    """
    settings = run_config.model_dump(include=config.TRAINING_SECTIONS)
    provenance = read_json(run_config.model_dir / "provenance.json", FETCH_FIRST)
    code = {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in training_code()}
    resolved = (
        precision.resolve(run_config),
        resolve_attention(run_config.model.attn_implementation),
    )
    software = sha256_file(runtime_lock(platform.machine()))
    return sha256_bytes(repr((settings, manifest, provenance, code, resolved, software)).encode())


def last_checkpoint(run_config: Config, fingerprint: str) -> Path | None:
    """The newest complete checkpoint of the same training. If there is none, all checkpoints are deleted.

    Args:
        run_config: of the training.
        fingerprint: see `training_fingerprint`.
    """
    saved = folder(run_config)
    by_step = sorted(saved.glob("checkpoint-*"), key=step_of)
    for checkpoint in [] if (saved / FINISHED).exists() else reversed(by_step):
        try:
            complete = read_json(checkpoint / COMPLETE, "")
        except (MissingInputError, MalformedInputError):
            log.warning("%s was only partly written; it is ignored", checkpoint)
            continue
        if complete["fingerprint"] != fingerprint:
            log.warning("%s has other settings, data or code; training starts from the beginning", checkpoint)
            break
        if changed_files(checkpoint, complete["files"]):
            log.warning("%s is damaged; it is ignored", checkpoint)
            continue
        return checkpoint
    shutil.rmtree(saved, ignore_errors=True)
    return None
