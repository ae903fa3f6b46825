"""A model in several files is downloaded from a hub over a line that breaks: what has arrived is kept, and no half file is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorabundle.core.files import sha256_file
from tests.conftest import ROOT, TINY
from tests.integration.hub_server import Hub, serve

REPOSITORY, REVISION = "someone/tiny-phi3", "0123456789abcdef0123456789abcdef01234567"
FROM_HUB = [*TINY, "model.source=hub", f"model.path={REPOSITORY}", f"model.revision='{REVISION}'"]


@pytest.fixture
def hub(tiny_project, tiny_model):
    """The tiny model in files of at most 20 kB, on a server."""
    for file in (tiny_project / "tiny").glob("*.safetensors"):
        file.unlink()
    tiny_model.save_pretrained(tiny_project / "tiny", max_shard_size="20KB")
    with serve(tiny_project / "tiny", REPOSITORY, REVISION) as server:
        yield server


def fetch(hub: Hub, **variables: str) -> subprocess.CompletedProcess:
    """Run the stage as make does, against the server."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(hub.folder.parent / "home"),
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    environment.pop("HF_HUB_OFFLINE")
    command = [sys.executable, "-m", "lorabundle.fetch", "--config", "config/smoke.yaml", "--set", *FROM_HUB]
    return subprocess.run(command, cwd=hub.folder.parent, env=environment | variables, capture_output=True, text=True)


def shards(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}


def test_interrupted_download_is_no_model_and_is_continued(hub):
    model, whole = hub.folder.parent / "data/models/tiny", shards(hub.folder)
    first, second = list(whole)[:2]
    hub.broken = {second}
    finished = fetch(hub)
    assert finished.returncode == 1
    assert f"{REPOSITORY} at {REVISION} cannot be downloaded" in finished.stderr
    assert "Then run the same command again: it keeps the files that are already downloaded." in finished.stderr
    assert not model.exists()

    finished = fetch(hub, HF_HUB_OFFLINE="1")
    assert finished.returncode == 1
    assert "is not in the local hub cache" in finished.stderr
    assert not model.exists()

    hub.broken, hub.sent = set(), []
    finished = fetch(hub)
    assert finished.returncode == 0, finished.stderr
    assert shards(model) == whole
    assert second in hub.sent
    assert first not in hub.sent
