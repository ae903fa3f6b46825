"""The submission: complete, and the same bytes for the same inputs."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from lorabundle import archive
from lorabundle.artifacts import atomic_write
from lorabundle.errors import MissingInputError


@pytest.fixture
def finished(smoke):
    """A complete run, with a source tree that holds things to leave out."""
    for name in (
        "config.yaml",
        "RESULTS.sha256",
        "environment.json",
        "manifest.json",
        "provenance.json",
        "train_log.jsonl",
        "metrics.json",
        "examples.jsonl",
        "samples.jsonl",
        "examples.jsonl",
    ):
        atomic_write(smoke.run_dir / name, name)
    for name in ("adapter/adapter_model.safetensors", "logs/train.log", "logs/archive.log"):
        atomic_write(smoke.run_dir / name, name)
    for stage in ("train", "report", "archive"):
        atomic_write(smoke.record_path(stage), stage)
    atomic_write(Path("src/lorabundle/templates/results.css"), "")
    for name in (
        "reports/results.md",
        "reports/results.html",
        "reports/figures/loss.svg",
        "README.md",
        "src/lorabundle/train.py",
    ):
        atomic_write(Path(name), name)
    for name in (
        "src/lorabundle/__pycache__/train.pyc",
        "docker/wheels/torch.whl",
        "docker/.image-docker",
        "tests/.gitkeep",
    ):
        atomic_write(Path(name), "left out")
    atomic_write(Path(".ci/run"), "#!/bin/sh\n")
    Path(".ci/run").chmod(0o755)
    return smoke


def test_quarantined_rows_are_packed_if_there_are_any(finished):
    quarantine = finished.run_dir / "quarantine.jsonl"
    assert quarantine not in archive.submission_files(finished)
    atomic_write(quarantine, "{}")
    assert quarantine in archive.submission_files(finished)


def test_contents(finished):
    names = [
        path.as_posix() for path in archive.submission_files(finished) if path.parts[0] not in ("config", "docker")
    ]
    run = "outputs/smoke"
    assert names == [
        ".ci/run",
        "README.md",
        f"{run}/RESULTS.sha256",
        f"{run}/adapter/adapter_model.safetensors",
        f"{run}/config.yaml",
        f"{run}/environment.json",
        f"{run}/examples.jsonl",
        f"{run}/logs/train.log",
        f"{run}/manifest.json",
        f"{run}/metrics.json",
        f"{run}/provenance.json",
        f"{run}/samples.jsonl",
        f"{run}/stages/report.json",
        f"{run}/stages/train.json",
        f"{run}/train_log.jsonl",
        "reports/figures/loss.svg",
        "reports/results.html",
        "reports/results.md",
        "src/lorabundle/templates/results.css",
        "src/lorabundle/train.py",
    ]
    shipped = {path.as_posix() for path in archive.submission_files(finished)}
    assert {"config/default.yaml", "docker/requirements.lock", "docker/run.sh"} <= shipped
    assert not any("wheels" in name or name.endswith(".image") for name in shipped)


def test_same_inputs_same_bytes(finished, tmp_path_factory, monkeypatch):
    """Neither the time of day, nor the files' times, nor the place of the checkout may show."""
    first = archive.pack(archive.submission_files(finished), "submission-smoke")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(".", elsewhere, symlinks=True)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(elsewhere)
    assert archive.pack(archive.submission_files(finished), "submission-smoke") == first


def test_other_input_other_bytes(finished):
    first = archive.pack(archive.submission_files(finished), "submission-smoke")
    atomic_write(finished.run_dir / "metrics.json", "changed")
    assert archive.pack(archive.submission_files(finished), "submission-smoke") != first


def test_entries_carry_no_trace_of_the_machine(finished):
    data = archive.pack(archive.submission_files(finished), "top")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = tar.getmembers()
    assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {(0, 0, "", "", 0)}
    assert {e.name: e.mode for e in entries}["top/.ci/run"] == 0o755
    assert {e.name: e.mode for e in entries}["top/README.md"] == 0o644
    assert data[4:8] == b"\0\0\0\0"  # gzip's own time
    assert data[3] == 0  # gzip's flags: no file name


def test_sums_check_after_unpacking(finished, tmp_path_factory):
    archive.run(finished)
    path = Path("archive/submission-smoke.tar.gz")
    assert Path(f"{path}.sha256").read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    subprocess.run(["sha256sum", "--check", "--quiet", f"{path.name}.sha256"], cwd="archive", check=True)
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder / "submission-smoke", check=True)


@pytest.mark.parametrize(
    "name", ["outputs/smoke/metrics.json", "outputs/smoke/adapter", "reports/results.md", "reports/results.html"]
)
def test_incomplete_run_is_not_packed(finished, name):
    path = Path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MissingInputError, match=name):
        archive.run(finished)
    assert not Path("archive").exists()
