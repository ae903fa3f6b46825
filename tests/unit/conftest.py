"""A finished run, ready to be packed."""

import pytest

from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config
from tests.conftest import TINY
from tests.fake_run import run_files
from tests.fake_submission import default_files, write_packed


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
