"""Checkpoints that are known to be whole, and of the same training: which one to go on from.

A checkpoint's `complete.json` is written last. It has the sha256 of each of its files and the training's fingerprint.
"""

import logging
import shutil
from pathlib import Path

import lorabundle
from lorabundle.compute.load import resolve_attention, resolve_dtype
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.errors import MalformedInputError, MissingInputError
from lorabundle.core.files import changed_files, read_json, sha256_bytes, sha256_file, write_json
from lorabundle.model.convert import FETCH_FIRST

log = logging.getLogger("lorabundle.train")

COMPLETE = "complete.json"  # written last into a checkpoint: one without it was cut short
CODE = ("model", "compute", "training")
PACKAGE = Path(lorabundle.__file__).parent
FINISHED = "finished.json"  # beside the checkpoints once training is over: the next run starts afresh


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Mark a checkpoint as whole."""
    files = {file.name: sha256_file(file) for file in sorted(checkpoint.iterdir()) if file.name != COMPLETE}
    write_json(checkpoint / COMPLETE, {"fingerprint": fingerprint, "files": files})


def training_code() -> list[Path]:
    """The source files that decide the course of training, sorted: whole folders, so that none can be forgotten."""
    files = [file for name in CODE for file in (PACKAGE / name).rglob("*") if file.suffix in (".py", ".json")]
    return sorted([*files, PACKAGE / "train.py"])


def training_fingerprint(run_config: Config, manifest: dict) -> str:
    """Hex sha256 of all that decides the course of training; a checkpoint is resumed only under the same one."""
    settings = run_config.model_dump(include=config.TRAINING_SECTIONS)
    provenance = read_json(run_config.model_dir / "provenance.json", FETCH_FIRST)
    code = {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in training_code()}
    resolved = (
        resolve_dtype(run_config.model.dtype),
        resolve_attention(run_config.model.attn_implementation),
    )
    software = sha256_file(config.RUNTIME_LOCK)
    return sha256_bytes(repr((settings, manifest, provenance, code, resolved, software)).encode())


def last_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of the same training; the folder is cleared when there is nothing to go on from."""
    if not (folder / FINISHED).exists():
        for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
            try:
                complete = read_json(checkpoint / COMPLETE, "")
            except (MissingInputError, MalformedInputError):
                log.warning("%s was cut short while being written; ignored", checkpoint)
                continue
            if complete["fingerprint"] != fingerprint:
                log.warning("%s belongs to other settings, data or code; training starts afresh", checkpoint)
                break
            if changed_files(checkpoint, complete["files"]):
                log.warning("%s is damaged; ignored", checkpoint)
                continue
            return checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    return None
