"""Signing the archive: docker/sign.sh, with real keys where there is ssh-keygen."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

SIGN = str(ROOT / "docker/sign.sh")
needs_ssh_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen (openssh-client)")


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run.tar.gz").write_bytes(b"some bytes")
    return Path("run.tar.gz")


def make_key(name: str) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", name], check=True)
    return name


def sign(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["/bin/bash", SIGN, *arguments], capture_output=True, text=True, **options)


def is_good(archive: Path, key: str, namespace: str = "lorabundle") -> bool:
    """As a reviewer checks it."""
    Path("allowed_signers").write_text(f"author {Path(f'{key}.pub').read_text()}")
    command = ["ssh-keygen", "-Y", "verify", "-f", "allowed_signers", "-I", "author", "-n", namespace]
    command += ["-s", f"{archive}.sig"]
    return subprocess.run(command, input=archive.read_bytes(), capture_output=True).returncode == 0


@needs_ssh_keygen
def test_signature_is_of_these_bytes_by_this_key_for_this_purpose(archive):
    assert sign(make_key("key"), str(archive)).returncode == 0
    assert is_good(archive, "key")
    assert not is_good(archive, make_key("another"))
    assert not is_good(archive, "key", namespace="git")
    archive.write_bytes(b"other bytes")
    assert not is_good(archive, "key")


@needs_ssh_keygen
def test_signing_twice_gives_the_same_bytes(archive):
    key = make_key("key")
    signatures = []
    for _ in range(2):
        sign(key, str(archive))
        signatures.append(Path(f"{archive}.sig").read_bytes())
    assert signatures[0] == signatures[1]


def fails(finished: subprocess.CompletedProcess, text: str) -> bool:
    """One paragraph on stderr, exit code 2, and no signature or half of one."""
    assert finished.returncode == 2
    assert finished.stderr.startswith("archive: error: ")
    assert finished.stderr.count("\n") == 1
    assert list(Path().glob("*.sig*")) == []
    return text in finished.stderr


@needs_ssh_keygen
def test_what_is_no_key(archive):
    Path("key").write_text("no key\n")
    Path("key").chmod(0o600)
    assert fails(sign("key", str(archive)), "cannot sign with SIGN_KEY=key")
    assert fails(sign("missing", str(archive)), "SIGN_KEY is 'missing', but there is no such file")


def test_no_ssh_keygen(archive):
    Path("key").touch()
    assert fails(sign("key", str(archive), env={"PATH": "/nowhere"}), "there is no ssh-keygen to sign with")
