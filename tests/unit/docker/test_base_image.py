"""docker/base_image.sh: the base built from Debian packages, compared with its lock. docker and mmdebstrap are replaced by stubs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCKED = f"bash 5.2 amd64 {'1' * 64}\nlibc6 2.36 amd64 {'2' * 64}\nopenssl 3.0.17 amd64 {'3' * 64}\n"
# Knows the images that it imported, and no registry
DOCKER = """#!/bin/bash
case $1 in
    --version) echo "Docker version 20.10" ;;
    info) cat information ;;
    image) grep -qx "$3" imported ;;
    import) echo "$3" >> imported ;;
    *) exit 1 ;;
esac
"""
# Writes the packages of the file `offered` next to the tar
MMDEBSTRAP = """#!/bin/bash
echo "$@" > asked
for argument in "$@"; do case $argument in */base.tar) cp offered "${argument%base.tar}packages"; touch "$argument" ;; esac; done
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A docker folder with a lock of three packages, all of which are offered."""
    monkeypatch.chdir(tmp_path)
    Path("docker").mkdir()
    for name in ("base_image.sh", "host.sh"):
        shutil.copy(ROOT / "docker" / name, "docker")
    Path("docker/debian.lock").write_text(f"# comment\n{LOCKED}")
    Path("docker/emulate.sh").write_text('"$@"')
    Path("information").write_text("linux x86_64 []\n")
    Path("offered").write_text(LOCKED)
    Path("imported").touch()
    Path("bin").mkdir()
    for name, text in (("docker", DOCKER), ("mmdebstrap", MMDEBSTRAP)):
        Path("bin", name).write_text(text)
        Path("bin", name).chmod(0o755)


def base(argument: str = "docker", **environment: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key != "DEBIAN_SOURCES"}
    inherited["PATH"] = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    return subprocess.run(
        ["docker/base_image.sh", argument],
        capture_output=True,
        text=True,
        env=inherited | {"BASE": "debian"} | environment,
    )


def offer(old: str, new: str) -> None:
    text = Path("offered").read_text()
    assert old in text
    Path("offered").write_text(text.replace(old, new))


def test_base_as_locked_is_made_once(project):
    first = base()
    assert re.fullmatch(r"lorabundle-base:[0-9a-f]{16} on Debian packages as in docker/debian.lock\n", first.stdout)
    assert "warning" not in first.stderr
    Path("bin/mmdebstrap").unlink()
    assert base().stdout == first.stdout


def test_engine_that_runs_aarch64_has_a_lock_of_its_own(project):
    Path("information").write_text("linux aarch64 []\n")
    Path("offered").write_text(LOCKED.replace("amd64", "arm64"))
    Path("docker/debian-aarch64.lock").write_text(f"# comment\n{Path('offered').read_text()}")
    name, _, what = base().stdout.partition(" on ")
    assert what == "Debian packages as in docker/debian-aarch64.lock\n"
    Path("information").write_text("linux x86_64 []\n")
    Path("offered").write_text(LOCKED)
    assert base().stdout != f"{name} on {what}"


def test_drift_is_named_and_does_not_stop(project):
    locked = base(BASE="auto").stdout.split()[0]
    Path("imported").write_text("")
    offer("openssl 3.0.17 amd64", "openssl 3.0.18 amd64")
    offer(f"bash 5.2 amd64 {'1' * 64}\n", f"zlib1g 1.2 amd64 {'4' * 64}\n")
    finished = base()
    assert finished.returncode == 0
    assert "bash: missing, locked 5.2\n" in finished.stderr
    assert "openssl: found 3.0.18, locked 3.0.17\n" in finished.stderr
    assert "zlib1g: found 1.2, not in the lock\n" in finished.stderr
    assert "libc6" not in finished.stderr
    assert "docker/base_image.sh lock" in finished.stderr
    name, _, what = finished.stdout.partition(" on ")
    assert what == "Debian packages, not as in docker/debian.lock: bash openssl zlib1g\n"
    assert name != locked
    assert base().stdout == finished.stdout
    assert Path("imported").read_text() == f"{name}\n"


def test_other_bytes_of_the_locked_version_stop(project):
    offer("2" * 64, "5" * 64)
    finished = base()
    assert finished.returncode == 1
    assert f"libc6: 2.36 has sha256 {'5' * 64}, locked {'2' * 64}" in finished.stderr
    assert Path("imported").read_text() == ""


def test_sources_of_the_users_own(project):
    base(DEBIAN_SOURCES="snapshot.list")
    assert Path("asked").read_text().endswith(" snapshot.list\n")


def test_lock_is_written_from_what_is_offered(project):
    offer("openssl 3.0.17 amd64", "openssl 3.0.18 amd64")
    assert base("lock").returncode == 0
    assert "--architectures=arm64" in Path("asked").read_text()
    assert "as in docker/debian.lock" in base().stdout
    assert Path("docker/debian-aarch64.lock").read_text() == Path("docker/debian.lock").read_text()


@pytest.mark.parametrize(("lock", "cpu"), [("debian.lock", "amd64"), ("debian-aarch64.lock", "arm64")])
def test_shipped_lock_has_a_hash_for_each_package_and_no_address(lock, cpu):
    comment, *lines = (ROOT / "docker" / lock).read_text().splitlines()
    assert comment.startswith("#")
    assert all(re.fullmatch(rf"[a-z0-9.+-]+ \S+ ({cpu}|all) [0-9a-f]{{64}}", line) for line in lines)
    assert {"libc6", "python3.11", "ca-certificates"} <= {line.split()[0] for line in lines}
    assert "://" not in "\n".join(lines)
