"""docker/download.sh: how pip is asked, with a stand-in for it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.unit.docker.engines import place

# Says which pip it has, and notes what it is asked with: the variables that are set, then the arguments
PYTHON = """#!/bin/bash
case "$*" in
    "-m pip --version") echo "pip $(cat pip_version) from somewhere" ;;
    *) { compgen -e | grep ^PIP_ | while read -r name; do echo "$name=${!name}"; done; printf '%s\\n' "$@"; } >> asked ;;
esac
"""


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Run the script with a version of pip; what pip was asked is in the file `asked`."""
    (tmp_path / "docker").mkdir()
    for name in (
        "download.sh",
        "host.sh",
        "requirements.lock",
        "requirements-aarch64.lock",
        "openmp.lock",
        "assets.lock",
    ):
        (tmp_path / "docker" / name).write_bytes((ROOT / "docker" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    place(Path("python"), PYTHON)

    def run(version: str, **environment: str) -> subprocess.CompletedProcess:
        Path("pip_version").write_text(version)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        given = inherited | {"PYTHON": f"{tmp_path}/python", "TORCH_INDEX": "https://index.example"} | environment
        return subprocess.run(["bash", "docker/download.sh"], capture_output=True, text=True, env=given)

    return run


@pytest.mark.parametrize("version", ["9.0.1", "18.1", "19.3.1", "20.0.2", "20.2.4", "20.2"])
def test_a_pip_that_reads_one_platform_only_is_named(download, version):
    finished = download(version)
    assert finished.returncode == 1
    assert f"pip {version} of " in finished.stderr
    assert "is too old: 20.3 is the first that can download for another platform" in finished.stderr
    assert not Path("asked").exists()


@pytest.mark.parametrize("version", ["20.3", "20.3.4", "21.0", "22.3.1", "26.1"])
def test_newer_pips_download(download, version):
    assert download(version).returncode == 0
    assert "manylinux_2_28_x86_64" in Path("asked").read_text().splitlines()


@pytest.mark.parametrize(("cpu", "other"), [("x86_64", "aarch64"), ("aarch64", "x86_64")])
def test_files_are_for_the_cpu_of_the_machine(download, tmp_path, cpu, other):
    place(Path("bin/uname"), f"#!/bin/sh\necho {cpu}\n")
    assert download("23.0", PATH=f"{tmp_path}/bin:{os.environ['PATH']}").returncode == 0
    asked = Path("asked").read_text()
    assert f"manylinux_2_17_{cpu}" in asked
    assert other not in asked.replace("requirements-aarch64.lock", "")
    assert ("docker/requirements-aarch64.lock" in asked.splitlines()) == (cpu == "aarch64")


def test_of_pips_settings_those_count_that_say_where_files_come_from(download):
    kept = {
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_PROXY": "http://p.example:3128",
        "PIP_CERT": "/ca.pem",
    }
    other = {
        "PIP_USER": "1",
        "PIP_TARGET": "/t",
        "PIP_CONSTRAINT": "c.txt",
        "PIP_NO_BINARY": ":all:",
        "PIP_PLATFORM": "win32",
    }
    finished = download("23.0", PIP_REQUIRE_VIRTUALENV="1", **kept, **other)
    assert finished.returncode == 0, finished.stderr
    settings = {line for line in Path("asked").read_text().splitlines() if line.startswith("PIP_")}
    assert settings == {f"{name}={value}" for name, value in kept.items()} | {"PIP_REQUIRE_VIRTUALENV=0"}


def test_no_pip_at_all(download):
    place(Path("python"), "#!/bin/sh\nexit 1\n")
    finished = download("23.0")
    assert finished.returncode == 1
    assert "it is needed to download. Install pip (Debian: apt-get install python3-pip)" in finished.stderr
