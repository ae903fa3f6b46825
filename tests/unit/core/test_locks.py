"""The shipped locks, and the wheels that are read as data."""

import re
import zipfile

import pytest

from lorabundle.core.errors import ConfigError, HashMismatchError, MalformedInputError, MissingInputError
from lorabundle.core.files import sha256_file
from lorabundle.core.locks import RUNTIME_LOCKS, locked_wheels, read_lock, runtime_lock
from tests.conftest import ROOT


@pytest.fixture
def toy(tmp_path):
    """A wheel folder and a lock that fits it."""
    wheel = tmp_path / "toy_lib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_lib.py", "")
    lock = tmp_path / "assets.lock"
    lock.write_text(
        f"# comment\ntoy-lib==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{sha256_file(wheel)}\n"
    )
    return lock, wheel


def test_wheel_that_fits_its_lock(toy, tmp_path):
    lock, wheel = toy
    assert locked_wheels(["toy-lib"], lock, tmp_path) == {"toy-lib": wheel}


def test_changed_wheel(toy, tmp_path):
    lock, wheel = toy
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(HashMismatchError, match=r"toy_lib-1\.0.*Delete it and docker"):
        locked_wheels(["toy-lib"], lock, tmp_path)


def test_wheel_not_downloaded(toy, tmp_path):
    lock, wheel = toy
    wheel.unlink()
    with pytest.raises(MissingInputError, match="make fetch"):
        locked_wheels(["toy-lib"], lock, tmp_path)


def test_package_not_locked(toy, tmp_path):
    with pytest.raises(
        ConfigError, match=r"assets\.lock does not pin numpy; it pins toy-lib\..*assets\.in and run `make lock`"
    ):
        locked_wheels(["numpy"], toy[0], tmp_path)


def test_lock_without_pins(tmp_path):
    (tmp_path / "empty.lock").write_text("# nothing\n")
    with pytest.raises(MalformedInputError, match="make lock"):
        read_lock(tmp_path / "empty.lock")


@pytest.mark.parametrize("name", ["requirements", "dev", "assets"])
def test_shipped_lock_pins_every_line_of_its_source_with_a_hash(name):
    pins = read_lock(ROOT / "docker" / f"{name}.lock")
    text = (ROOT / "docker" / f"{name}.in").read_text()
    wanted = re.findall(r"^([a-z][a-z0-9-]*)", text, re.M)
    assert wanted
    assert set(wanted) <= set(pins)
    assert all(hashes for _, hashes in pins.values())
    assert "://" not in (ROOT / "docker" / f"{name}.lock").read_text()  # no index address


def test_dev_lock_moves_no_runtime_package():
    runtime, dev = (read_lock(ROOT / "docker" / f"{name}.lock") for name in ("requirements", "dev"))
    shared = set(runtime) & set(dev)
    assert {name: dev[name][0] for name in shared} == {name: runtime[name][0] for name in shared}


def test_every_requirement_says_why_it_is_there():
    for name in ("requirements", "dev", "assets"):
        lines = (ROOT / "docker" / f"{name}.in").read_text().splitlines()
        assert [line for line in lines if re.match("[a-z]", line) and "#" not in line] == []


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("x86_64", "requirements.lock"),
        ("Linux-6.1.0-x86_64-with-glibc2.36", "requirements.lock"),
        ("aarch64", "requirements-aarch64.lock"),
        ("Linux-6.1.0-aarch64-with-glibc2.36", "requirements-aarch64.lock"),
    ],
)
def test_lock_of_the_machine(platform, name):
    assert runtime_lock(platform).name == name


def test_locks_of_both_architectures_differ_in_torch_only():
    x86_64, aarch64 = (
        {name: pin[0] for name, pin in read_lock(ROOT / lock).items()} for lock in RUNTIME_LOCKS.values()
    )
    assert {name for name in x86_64 | aarch64 if x86_64.get(name) != aarch64.get(name)} == {"torch"}
    assert aarch64["torch"] == "2.10.0"  # the last CPU build for aarch64 on the package index
