"""The tiny model in a run's model folder; a finished run, ready to be packed, and one that is packed and passes every check."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config
from tests.conftest import TINY
from tests.fake_run import run_files
from tests.fake_submission import ARCHIVE, default_files, write_packed, write_verifiable


@pytest.fixture
def saved_tiny(workspace, tiny_model) -> Callable[..., Config]:
    """A config over the tiny model, which is saved in its model folder; with further overrides."""
    tiny_model.save_pretrained("data/models/tiny")
    settings = ["model.name=tiny", "lora.r=4", "train.max_tokens=1024"]
    return lambda *overrides: load_config(workspace / "config/smoke.yaml", [*settings, *overrides])


@pytest.fixture
def packed(smoke: Config) -> Config:
    """A run whose model and data come from packages."""
    write_packed(smoke, default_files())
    return smoke


@pytest.fixture
def own_packed(workspace) -> Config:
    """A run on a dataset of the user's own, over a model in a local folder; neither states a licence."""
    config = load_config(workspace / "config/smoke.yaml", [*TINY, "run=smoke"])
    files = run_files()
    files["manifest.json"]["licences"] = {}
    files["provenance.json"]["files"] = {"model.safetensors": "f" * 64}
    write_packed(config, files)
    return config


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory) -> Path:
    """Where a finished project is kept, because making it takes seconds; empty until the first test has made it."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def shipped(packed: Config, finished_project: Path) -> Path:
    """The archive of a finished smoke run, in a folder that also holds the project's own files."""
    if any(finished_project.iterdir()):
        shutil.copytree(finished_project, ".", dirs_exist_ok=True)
    else:
        write_verifiable(packed)
        shutil.copytree(".", finished_project, dirs_exist_ok=True)
    return ARCHIVE
