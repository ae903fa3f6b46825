"""docker/verify.sh: the files next to an archive, and which stages run again in which order. Stages are replaced by a stub."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

STUB = """#!/bin/bash
echo "${NETWORK:-0} ${NUMERICS:-none} $*" >> ran
adapter=outputs/run/adapter/adapter_model.safetensors
case "$*" in
    *"verify check"*)
        for folder in shipped eval full; do
            mkdir -p outputs/.verify/$folder/${adapter%/*}
            echo "numerics: portable" > outputs/.verify/$folder/config.yaml
            echo same > outputs/.verify/$folder/$adapter
        done
        ;;
    *lorabundle.train*) cp trained outputs/.verify/full/$adapter ;;
esac
case "$*" in *"lorabundle.$(cat fails 2> /dev/null || echo none) "*) exit 2 ;; esac
"""
CHECK, COMPARE = (
    f"0 none python -m lorabundle.verify {action} --archive outputs/.verify/archive.tar.gz --level "
    for action in ("check", "compare")
)


def again(stage: str, level: str) -> str:
    network = 1 if stage == "fetch" else 0
    return f"{network} portable env -C outputs/.verify/{level} python -m lorabundle.{stage} --config config.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An archive and the script."""
    (tmp_path / "docker").mkdir()
    for name in ("verify.sh", "read_config.sh", "host.sh"):
        shutil.copy(ROOT / "docker" / name, tmp_path / "docker")
    (tmp_path / "docker/run.sh").write_text(STUB)
    (tmp_path / "docker/run.sh").chmod(0o755)
    (tmp_path / "a.tar.gz").write_text("content")
    (tmp_path / "trained").write_text("same\n")
    monkeypatch.chdir(tmp_path)
    for name in ("NUMERICS", "NETWORK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def verify(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["docker/verify.sh", *arguments], capture_output=True, text=True)


STAGES = {
    "eval": ["fetch", "preprocess", "evaluate"],
    "full": ["fetch", "preprocess", "train", "evaluate", "sample", "report"],
}


def ran() -> list[str]:
    return Path("ran").read_text().splitlines()


@pytest.mark.parametrize("level", ["hashes", "report"])
def test_no_stage_runs_again_below_eval(project, level):
    assert verify("a.tar.gz", level).returncode == 0
    assert ran() == [CHECK + level]


@pytest.mark.parametrize("level", ["eval", "full"])
def test_stages_run_again_with_the_numerics_of_the_run_and_only_fetch_with_network(project, level):
    assert verify("a.tar.gz", level).returncode == 0
    assert ran() == [CHECK + level, *(again(stage, level) for stage in STAGES[level]), COMPARE + level]


def test_the_shipped_adapter_is_evaluated_if_training_gives_another(project):
    Path("trained").write_text("other\n")
    assert verify("a.tar.gz", "full").returncode == 0
    stages = [again(stage, level) for level in ("full", "eval") for stage in STAGES[level]]
    assert ran() == [CHECK + "full", *stages, COMPARE + "full"]


def test_a_stage_that_fails_ends_it_with_a_verdict(project):
    Path("fails").write_text("preprocess")
    finished = verify("a.tar.gz", "eval")
    assert finished.returncode == 2
    assert finished.stdout.endswith(
        "[verify] NOT VERIFIED: preprocess failed when it ran again, see above (level eval)\n"
    )
    assert len(ran()) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "report"], "which archive?"),
        (["none.tar.gz", "report"], "there is no archive none.tar.gz"),
        (["a.tar.gz", "all"], "LEVEL is 'all'; it can be hashes, report, eval or full"),
    ],
)
def test_bad_arguments(project, arguments, said):
    finished = verify(*arguments)
    assert finished.returncode == 2
    assert said in finished.stderr
    assert not Path("ran").exists()


def test_checksum_next_to_the_archive(project):
    subprocess.run("sha256sum a.tar.gz > a.tar.gz.sha256", shell=True, check=True)
    assert "checksum: as in a.tar.gz.sha256" in verify("a.tar.gz", "hashes").stdout
    Path("a.tar.gz").write_text("changed")
    finished = verify("a.tar.gz", "hashes")
    assert finished.returncode == 3
    assert "DIFFERENCE a.tar.gz: expected" in finished.stdout


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_signature(project):
    for name in ("key", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "lorabundle", "-f", "key", "a.tar.gz"], check=True)
    for arguments in ([], ["key.pub"]):
        finished = verify("a.tar.gz", "hashes", *arguments)
        assert finished.returncode == 0
        assert 'signature: Good "lorabundle" signature' in finished.stdout
    assert verify("a.tar.gz", "hashes", "other.pub").returncode == 3
    Path("a.tar.gz").write_text("changed")
    for arguments in ([], ["key.pub"]):
        finished = verify("a.tar.gz", "hashes", *arguments)
        assert finished.returncode == 3
        assert "DIFFERENCE a.tar.gz.sig: expected a signature" in finished.stdout


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_signature_that_is_asked_for_must_be_there(project):
    finished = verify("a.tar.gz", "hashes", "key.pub")
    assert finished.returncode == 3
    assert "found no such file" in finished.stdout
    Path("a.tar.gz.sig").touch()
    finished = verify("a.tar.gz", "hashes", "none.pub")
    assert finished.returncode == 2
    assert "SIGN_KEY is 'none.pub', which is not a public SSH key" in finished.stderr


def test_two_archives_are_not_verified_in_one_folder_at_a_time(project):
    """What one unpacked would be taken for the other's."""
    Path("outputs").mkdir()
    with open("outputs/.verify.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = verify("a.tar.gz", "hashes")
    assert finished.returncode == 2
    assert "another archive is being verified in this folder" in finished.stderr
    assert not Path("ran").exists()
    assert verify("a.tar.gz", "hashes").returncode == 0
