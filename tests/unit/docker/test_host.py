"""docker/host.sh: which engine is taken, and why one is passed over. The engines are stand-ins."""

from pathlib import Path

import pytest

from tests.unit.docker import engines
from tests.unit.docker.engines import answer, place, run


@pytest.fixture
def project(tmp_path, monkeypatch):
    engines.make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def engine(asked: str, **environment: str):
    return run("bash", "docker/run.sh", "--engine", ENGINE=asked, **environment)


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
    assert engine(asked).stdout == f"{chosen}\n"


def blind() -> None:
    answer("docker")
    Path("bin/docker.blind").touch()


def forbidden() -> None:
    place(Path("bin/docker"), "#!/bin/sh\necho 'Got permission denied while trying to connect' >&2\nexit 1\n")


UNFIT = [
    (lambda: None, "'docker info' does not answer; it must be started first"),
    (blind, "it does not see this folder, because it runs on another machine or outside the container that you are in"),
    (forbidden, "your user may not use it (sudo usermod -aG docker $USER lets it"),
    (lambda: answer("docker", "windows x86_64 []"), "it runs containers for windows x86_64"),
    (lambda: answer("docker", "linux riscv64 []"), "it runs containers for linux riscv64"),
]


@pytest.mark.parametrize(("state", "reason"), UNFIT)
def test_an_engine_that_cannot_run_this_is_passed_over_with_the_reason(project, state, reason):
    state()
    answer("podman")
    finished = engine("auto")
    assert finished.stdout == "podman\n"
    assert finished.stderr.startswith(f"[image] docker is passed over: {reason}")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize(("state", "reason"), UNFIT)
def test_an_engine_that_is_asked_for_and_cannot_run_this_is_an_error(project, state, reason):
    state()
    finished = engine("docker")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"image: error: ENGINE=docker cannot run this project: {reason}")
    assert finished.stderr.endswith("Without containers: ENGINE=venv.\n")
    assert finished.stderr.count("\n") == 1


def test_other_engines_are_refused(project):
    finished = engine("lxc")
    assert finished.returncode == 2
    assert finished.stderr == "image: error: ENGINE is 'lxc'; it can be auto, docker, podman or venv.\n"


def be(machine: str) -> None:
    """Let `uname` say another system and CPU."""
    system, cpu = machine.split()
    place(Path("bin/uname"), f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {cpu}\n')


@pytest.mark.parametrize(
    ("machine", "named"),
    [
        ("Linux riscv64", "the locked packages are for Linux on x86-64 and aarch64, and this is Linux on riscv64."),
        ("Linux i686", "the locked packages are for Linux on x86-64 and aarch64, and this is Linux on i686."),
        ("FreeBSD amd64", "the locked packages are for Linux on x86-64 and aarch64, and this is FreeBSD on amd64."),
        ("Darwin arm64", "this runs on Linux only, and this is macOS. Install Docker Desktop or podman, start it"),
        ("Darwin x86_64", "this runs on Linux only, and this is macOS. Install Docker Desktop or podman, start it"),
    ],
)
def test_other_machines_are_told_before_anything_is_downloaded(project, machine, named):
    be(machine)
    for asked in ("auto", "venv"):
        finished = engine(asked)
        assert (finished.returncode, finished.stdout) == (2, "")
        assert named in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("machine", ["Linux x86_64", "Linux aarch64", "Linux arm64"])
def test_both_architectures_run_without_a_container(project, machine):
    be(machine)
    assert engine("auto").stdout == "venv\n"


@pytest.mark.parametrize("information", ["linux aarch64 [name=seccomp]", "linux arm64 []", "linux amd64 []"])
def test_mac_runs_in_a_container_of_either_architecture(project, information):
    be("Darwin arm64")
    answer("docker", information)
    assert engine("auto").stdout == "docker\n"
    said = run(
        "bash", "-c", ". docker/host.sh; architecture docker; of_architecture $(architecture docker) requirements"
    )
    assert said.stdout.split() == (
        ["x86_64", "requirements.lock"] if "amd64" in information else ["aarch64", "requirements-aarch64.lock"]
    )


def other_python(version: str = "CPython 3.12.1") -> None:
    for name in ("python3", "python3.11"):
        place(Path("bin", name), f"#!/bin/sh\necho {version}\n")


def test_other_python_gets_a_message_that_names_the_container(project):
    other_python()
    Path(".venv/.complete").unlink()
    for command in (["docker/setup.sh", "venv"], ["docker/run.sh", "--engine"]):
        finished = run("bash", *command, ENGINE="venv")
        assert finished.returncode == 2
        assert "the locks are for CPython 3.11, and the python3 here is CPython 3.12.1" in finished.stderr
        assert "make all ENGINE=docker" in finished.stderr
    assert Path(".venv").exists()


def test_python_is_not_looked_for_again_once_the_environment_is_there(project):
    other_python()
    assert engine("venv").stdout == "venv\n"


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("ensurepip", "its modules venv and ensurepip are missing. On Debian: apt-get install python3-venv."),
        ("ctypes", "libstdc++.so.6, which is missing. On Debian: apt-get install libstdc++6."),
    ],
)
def test_what_python_lacks_is_named_with_its_package(project, fails, message):
    place(
        Path("bin/python3.11"), f"#!/bin/sh\ncase $2 in *platform*) echo CPython 3.11.2 ;; *{fails}*) exit 1 ;; esac\n"
    )
    Path(".venv/.complete").unlink()
    finished = engine("venv")
    assert finished.returncode == 2
    assert message in finished.stderr


def test_the_python_that_is_named_comes_first(project):
    other_python()
    place(Path("mine/python"), "#!/bin/sh\necho CPython 3.11.9\n")
    finished = run("bash", "-c", ". docker/host.sh; find_python", PYTHON="mine/python")
    assert finished.stdout == "mine/python\n"


def test_sums_are_computed_with_the_tool_that_is_there(project):
    expected = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\n"
    sum_of_foo = "printf foo | { . docker/host.sh; sha256; }"
    assert run("bash", "-c", sum_of_foo).stdout == expected
    without = 'command() { [ "$2" != sha256sum ]; }; ' + sum_of_foo  # as on macOS
    assert run("bash", "-c", without).stdout == expected


def test_tests_run_in_the_environment_where_they_can_and_else_in_a_container(project):
    answer("docker")
    assert run("bash", "docker/run.sh", "--engine", ENGINE="auto", RUN_DEV="1").stdout == "venv\n"
    other_python()
    Path(".venv/.complete").unlink()
    assert run("bash", "docker/run.sh", "--engine", ENGINE="auto", RUN_DEV="1").stdout == "docker\n"
