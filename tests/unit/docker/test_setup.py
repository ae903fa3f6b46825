"""docker/setup.sh: an image is started once before it is used. The engines are stand-ins."""

from pathlib import Path

import pytest

from tests.unit.docker import engines
from tests.unit.docker.engines import answer, run, values


@pytest.fixture
def project(tmp_path, monkeypatch):
    engines.make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("docker/base_image.sh").write_text("echo base:1 on the base\n")
    for name in ("Dockerfile", "requirements.lock", "openmp.lock", "dev.lock"):
        Path("docker", name).touch()
    Path("docker/.image-docker").unlink()
    answer("docker")
    return tmp_path


def recorded() -> list[str]:
    return Path("docker/.image-docker").read_text().splitlines()


def built() -> list[str]:
    return Path("bin/docker.built").read_text().splitlines()


def test_image_is_recorded_with_its_name_content_and_base(project):
    assert run("bash", "docker/setup.sh", "docker").returncode == 0
    identity, description = recorded()
    assert identity == "sha256:0123"
    assert description.startswith("lorabundle:")
    assert description.endswith(", content sha256:89ab, 1.46 GB unpacked, on the base")


def test_image_of_the_tests_is_built_on_the_locked_one(project):
    assert run("bash", "docker/setup.sh", "docker").returncode == 0
    assert values(built(), "--build-arg") == ["BASE=base:1", "START=base:1", "PURPOSE="]
    locked = recorded()[1].split(",")[0]
    assert run("bash", "docker/setup.sh", "docker", "dev").returncode == 0
    assert values(built(), "--build-arg") == ["BASE=base:1", f"START={locked}", "PURPOSE=dev"]
    assert Path("docker/.image-docker-dev").read_text().splitlines()[1].startswith("lorabundle-dev:")
    assert recorded()[1].split(",")[0] == locked


def test_engine_that_cannot_set_limits_runs_without_them_from_then_on(project):
    Path("bin/docker.unlimited").touch()
    finished = run("bash", "docker/setup.sh", "docker")
    assert finished.returncode == 0
    note = finished.stdout.splitlines()[-1]
    assert note.startswith("[image] docker cannot limit a container's memory and processes here")
    assert "It said: Error: crun: controller memory is not available" in note
    assert recorded()[2:] == ["without limits"]
    assert "--memory" not in run("bash", "docker/run.sh", "true", ENGINE="docker").stdout


def test_engine_that_starts_no_container_is_an_error_and_no_image_is_recorded(project):
    Path("bin/docker.broken").touch()
    finished = run("bash", "docker/setup.sh", "docker")
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "image: error: docker built the image, but cannot start it on this folder. It said: Error: crun: controller memory is not "
        "available under /sys/fs/cgroup. From now on ENGINE=auto passes docker over: run the same command again, or name another "
        "engine (ENGINE=venv)."
    ]
    assert not Path("docker/.image-docker").exists()
    again = run("bash", "docker/run.sh", "--engine", ENGINE="auto")
    assert again.stdout == "venv\n"
    assert again.stderr.startswith(
        "[image] docker is passed over: it could not start a container on this folder (Error: crun"
    )
    Path("docker/.unfit-docker").unlink()
    assert run("bash", "docker/run.sh", "--engine", ENGINE="auto").stdout == "docker\n"
