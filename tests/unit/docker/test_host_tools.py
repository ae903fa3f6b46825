"""The scripts that run on the host give the same with other systems' tools: BusyBox's, the two other awks, and bash in POSIX mode.

They stand for macOS, which has tools of the BSDs, the original awk and bash 3.2.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.unit.docker import engines

TOOLS = [
    "awk",
    "basename",
    "cat",
    "cmp",
    "cut",
    "dirname",
    "env",
    "find",
    "grep",
    "head",
    "ls",
    "mktemp",
    "readlink",
    "sed",
    "sha256sum",
    "sort",
    "tail",
    "tar",
    "tr",
    "uname",
]
VARIANTS = {
    "busybox": {tool: f'exec busybox {tool} "$@"' for tool in TOOLS},
    "mawk": {"awk": 'exec mawk "$@"'},
    "original-awk": {"awk": 'exec original-awk "$@"'},
    "bash": {"bash": 'exec /bin/bash --posix "$@"'},
}


def variant(name: str):
    missing = pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
    return pytest.param(name, marks=missing)


@pytest.fixture(params=[variant(name) for name in VARIANTS])
def path(request, tmp_path) -> str:
    """A search path on which the tools of a variant come first."""
    for tool, command in VARIANTS[request.param].items():
        engines.place(tmp_path / "tools" / tool, f"#!/bin/sh\n{command}\n")
    return f"{tmp_path / 'tools'}:{os.environ['PATH']}"


def output(*command: str, path: str, cwd: Path = ROOT, **environment: str) -> str:
    variables = {
        name: value for name, value in os.environ.items() if name not in ("ENGINE", "SET", "DATA", "NETWORK", "READS")
    }
    finished = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=variables | {"PATH": path} | environment
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_settings_are_read_alike(path, config):
    command = ["bash", "docker/read_config.sh", f"config/{config}", "data.source=data/over.csv", "run=mine"]
    expected = output(*command, path=os.environ["PATH"])
    assert "run=mine" in expected
    assert sorted(output(*command, path=path).splitlines()) == sorted(expected.splitlines())


def test_line_ends_of_windows_lose_no_letter(path, tmp_path):
    r"""A `\\r` that sed does not know would be an r: "over" would become "ove"."""
    (tmp_path / "base.yaml").write_bytes(b"run: other\r\nmodel:\r\n  name: larger\r\n")
    (tmp_path / "mine.yaml").write_bytes(b"extends: base.yaml\r\ndata:\r\n  source: over\r\n")
    read = output("bash", str(ROOT / "docker/read_config.sh"), "mine.yaml", path=path, cwd=tmp_path).splitlines()
    assert {"extends=./base.yaml", "run=other", "model.name=larger", "data.source=over"} <= set(read)


def test_help_is_alike(path):
    assert output("make", "help", path=path) == output("make", "help", path=os.environ["PATH"])


def test_engine_and_container_are_alike(path, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    engines.make_project(folder)
    monkeypatch.chdir(folder)
    engines.answer("docker")
    (tmp_path / "real.csv").touch()
    Path("data").mkdir()
    Path("data/mine.csv").symlink_to("../../real.csv")
    given = {
        "ENGINE": "auto",
        "READS": f"data/mine.csv {tmp_path}/*.csv",
        "HTTPS_PROXY": "http://p.example",
        "NETWORK": "1",
    }
    for command in (["bash", "docker/run.sh", "--engine"], ["bash", "docker/run.sh", "true"]):
        first, second = (
            output(*command, path=f"{folder}/bin:{p}", cwd=folder, **given) for p in (os.environ["PATH"], path)
        )
        lines, others = ([line for line in text.splitlines() if not line.endswith("k")] for text in (first, second))
        assert lines == others  # the line that ends in k is the free memory, which changes
        assert len(lines) == 1 or f"type=bind,source={tmp_path}/real.csv,target={tmp_path}/real.csv,readonly" in lines
