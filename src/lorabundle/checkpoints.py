"""Checkpoints that are known to be whole, and of the same training: which one to go on from.

A checkpoint's `complete.json` is written last. It has the sha256 of each of its files and the training's fingerprint.
"""

import logging
import shutil
from pathlib import Path

from lorabundle import artifacts, config, fused, modeling, numerics, packing, scoring, step
from lorabundle.artifacts import sha256_bytes, sha256_file
from lorabundle.config import Config
from lorabundle.errors import MalformedInputError, MissingInputError

log = logging.getLogger("lorabundle.train")

COMPLETE = "complete.json"  # written last into a checkpoint: one without it was cut short
FINISHED = "finished.json"  # beside the checkpoints once training is over: the next run starts afresh


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Mark a checkpoint as whole."""
    files = {file.name: sha256_file(file) for file in sorted(checkpoint.iterdir()) if file.name != COMPLETE}
    artifacts.write_json(checkpoint / COMPLETE, {"fingerprint": fingerprint, "files": files})


def training_fingerprint(run_config: Config, manifest: dict) -> str:
    """Hex sha256 of all that decides the course of training; a checkpoint is resumed only under the same one."""
    settings = run_config.model_dump(include=config.TRAINING_SECTIONS)
    provenance = artifacts.read_json(run_config.model_dir / "provenance.json", modeling.FETCH_FIRST)
    code = [sha256_file(Path(module.__file__)) for module in (fused, modeling, numerics, packing, scoring, step)]
    resolved = (
        modeling.resolve_dtype(run_config.model.dtype),
        modeling.resolve_attention(run_config.model.attn_implementation),
    )
    software = sha256_file(config.RUNTIME_LOCK)
    return sha256_bytes(repr((settings, manifest, provenance, code, resolved, software)).encode())


def last_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of the same training; the folder is cleared when there is nothing to go on from."""
    if not (folder / FINISHED).exists():
        for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
            try:
                complete = artifacts.read_json(checkpoint / COMPLETE, "")
            except (MissingInputError, MalformedInputError):
                log.warning("%s was cut short while being written; ignored", checkpoint)
                continue
            if complete["fingerprint"] != fingerprint:
                log.warning("%s belongs to other settings, data or code; training starts afresh", checkpoint)
                break
            if artifacts.changed_files(checkpoint, complete["files"]):
                log.warning("%s is damaged; ignored", checkpoint)
                continue
            return checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    return None
