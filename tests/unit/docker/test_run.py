"""docker/run.sh and setup.sh: which engine is taken, and how a container is held. The engines are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Answers `info` if its file .answers exists, knows every image, and prints the arguments of `run` one a line
ENGINE = """#!/bin/bash
case $1 in
    info) [ -e "$(dirname "$0")/$(basename "$0").answers" ] ;;
    image) echo sha256:0123 ;;
    run) printf '%s\\n' "$@" ;;
esac
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the scripts, an image, a .venv, and stand-ins for docker and podman that do not answer yet."""
    monkeypatch.chdir(tmp_path)
    Path("docker").mkdir()
    for name in ("run.sh", "setup.sh"):
        shutil.copy(ROOT / "docker" / name, "docker")
    for name in ("docker", "podman"):
        Path(f"docker/.image-{name}").write_text("sha256:0123\nlorabundle:abc, content sha256:4567\n")
    Path("bin").mkdir()
    for name in ("docker", "podman"):
        Path("bin", name).write_text(ENGINE)
        Path("bin", name).chmod(0o755)
    Path(".venv/bin").mkdir(parents=True)
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k not in ("ENGINE", "NETWORK", "THREADS", "PYTHON")}
    path = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    return subprocess.run(arguments, capture_output=True, text=True, env=inherited | {"PATH": path} | environment)


def answer(name: str) -> None:
    Path("bin", f"{name}.answers").touch()


@pytest.mark.parametrize(
    ("answering", "asked", "chosen"),
    [
        ([], "auto", "venv"),
        (["docker"], "auto", "docker"),
        (["podman"], "auto", "podman"),
        (["docker", "podman"], "auto", "docker"),
        (["docker"], "venv", "venv"),
        (["docker", "podman"], "podman", "podman"),
    ],
)
def test_choice(project, answering, asked, chosen):
    for name in answering:
        answer(name)
    assert run("docker/run.sh", "--engine", ENGINE=asked).stdout == f"{chosen}\n"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("docker", "'docker info' does not answer. Start it, or run without containers: ENGINE=venv"),
        ("lxc", "it can be auto"),
    ],
)
def test_engine_that_cannot_be_had(project, asked, text):
    finished = run("docker/run.sh", "--engine", ENGINE=asked)
    assert finished.returncode == 2
    assert text in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_container_is_held_tight(project):
    answer("docker")
    options = run("docker/run.sh", "python", "-m", "lorabundle.train", ENGINE="docker", THREADS="2").stdout.splitlines()
    for option in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--rm"):
        assert option in options
    assert options[options.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    volumes = {options[i + 1] for i, option in enumerate(options) if option == "--volume"}
    writable = {f"{project}/{name}:/bundle/{name}" for name in ("data", "outputs", "reports", "archive")}
    assert volumes == writable | {f"{project}:/bundle:ro"}
    assert "OMP_NUM_THREADS=2" in options
    assert "LORABUNDLE_ENGINE=docker" in options
    assert "LORABUNDLE_IMAGE=lorabundle:abc, content sha256:4567" in options
    assert options[-4:] == ["sha256:0123", "python", "-m", "lorabundle.train"]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < int(options[options.index("--memory") + 1].removesuffix("k")) * 1024 < total
    assert int(options[options.index("--pids-limit") + 1]) > 0


def test_only_fetch_gets_the_network(project):
    answer("docker")
    assert "--network=none" in run("docker/run.sh", "true", ENGINE="docker").stdout.splitlines()
    assert "--network=none" not in run("docker/run.sh", "true", ENGINE="docker", NETWORK="1").stdout.splitlines()
    makefile = (ROOT / "Makefile").read_text()
    assert [line.split()[-1] for line in makefile.splitlines() if "NETWORK=1" in line] == ["stage,fetch)"]


def test_venv_runs_with_the_locked_python_first(project):
    Path(".venv/bin/python").write_text("#!/bin/sh\necho $LORABUNDLE_ENGINE $PYTHONPATH $*\n")
    Path(".venv/bin/python").chmod(0o755)
    finished = run("docker/run.sh", "python", "-m", "lorabundle.train", ENGINE="venv")
    assert finished.stdout == f"venv {project}/src -m lorabundle.train\n"


def test_other_python_gets_a_message_that_names_the_container(project):
    for name in ("python3", "python3.11"):
        Path("bin", name).write_text("#!/bin/sh\necho CPython 3.12.1\n")
        Path("bin", name).chmod(0o755)
    finished = run("docker/setup.sh", "venv")
    assert finished.returncode == 2
    assert "the locks are for CPython 3.11, and the python3 here is CPython 3.12.1" in finished.stderr
    assert "make all ENGINE=docker" in finished.stderr
    assert Path(".venv").exists()


@pytest.mark.parametrize("threads", ["abc", "0", "-1", "1.5"])
def test_threads_must_be_a_number(project, threads):
    finished = run("docker/run.sh", "true", ENGINE="venv", THREADS=threads)
    assert finished.returncode == 2
    assert f"THREADS is '{threads}'" in finished.stderr
