"""The submission: complete, and the same bytes for the same inputs."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from lorabundle import archive
from lorabundle.core.errors import HashMismatchError, MissingInputError
from lorabundle.core.files import atomic_write
from tests.conftest import run_stage
from tests.fake_submission import documents, write_records

DOCUMENTS = [
    "CHECKLIST.md",
    "LICENSES.md",
    "REPRODUCE.md",
    "provenance.intoto.json",
    "ro-crate-metadata.json",
    "sbom.cdx.json",
]


def packed_bytes(config) -> bytes:
    """The archive as the stage leaves it."""
    archive.run(config)
    return Path("archive/submission-smoke.tar.gz").read_bytes()


def test_documents_are_packed_and_in_the_sums(packed):
    data = packed_bytes(packed)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        sums = tar.extractfile("submission-smoke/SHA256SUMS").read().decode()
    assert names == sorted(names)
    assert {f"submission-smoke/{name}" for name in DOCUMENTS} < set(names)
    listed = {line.split("  ")[1] for line in sums.splitlines()}
    assert {f"submission-smoke/{name}" for name in listed | {"SHA256SUMS"}} == set(names)


def test_same_inputs_same_bytes(packed, tmp_path_factory, monkeypatch):
    """Neither the time of day, nor the files' times, nor the place of the checkout may show."""
    first = packed_bytes(packed)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(".", elsewhere, symlinks=True, ignore=shutil.ignore_patterns("archive"))
    for path in elsewhere.rglob("*"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(elsewhere)
    assert packed_bytes(packed) == first


def test_same_inputs_same_bytes_in_another_process(packed, monkeypatch):
    """Nor the order of sets, which differs from process to process, nor the time zone or the language."""
    written = []
    for seed, zone, language in (("1", "UTC", "C"), ("2", "Pacific/Auckland", "C.UTF-8")):
        for name, value in {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": language}.items():
            monkeypatch.setenv(name, value)
        run_stage("archive", cwd=Path())
        written.append(Path("archive/submission-smoke.tar.gz").read_bytes())
    assert written[0] == written[1]


def test_documents_know_no_time_but_the_records(packed):
    """All times are those of the stages, 10:00 to 10:06 of one day."""
    for name, text in documents(packed).items():
        times = re.findall(r"\d{4}-\d\d-\d\dT[\d:]+", text)
        assert all("2026-11-23T10:00:00" <= time <= "2026-11-23T10:06:00" for time in times), name
        assert bool(times) == name.endswith(".json"), name


def test_other_input_other_bytes(packed):
    first = packed_bytes(packed)
    atomic_write(packed.adapter_dir / "adapter_model.safetensors", "changed")
    write_records(packed)
    second = packed_bytes(packed)
    assert second != first
    Path("README.md").write_text("changed")
    assert packed_bytes(packed) not in (first, second)


@pytest.mark.parametrize("name", ["outputs/smoke/metrics.json", "reports/results.md", "docker/assets.lock"])
def test_file_that_is_not_the_stages_is_not_packed(packed, name):
    """A number changed by hand, or the report of another run."""
    if name == "docker/assets.lock":
        record = json.loads(packed.record_path("fetch").read_text())
        record["inputs"][name] = "0" * 64
        packed.record_path("fetch").write_text(json.dumps(record))
    else:
        with Path(name).open("a") as file:
            file.write(" ")
    with pytest.raises(HashMismatchError, match=rf"^{name} is not the file that the stage \w+ read or wrote"):
        archive.run(packed)
    assert not Path("archive").exists()


def test_stages_that_disagree_on_a_file_are_not_packed(packed):
    """Evaluated on weights other than those that were trained on."""
    record = json.loads(packed.record_path("evaluate").read_text())
    record["inputs"]["data/models/smollm2-135m-phi3/model.safetensors"] = "0" * 64
    packed.record_path("evaluate").write_text(json.dumps(record))
    with pytest.raises(HashMismatchError, match="the stage evaluate"):
        archive.run(packed)


def test_signature_goes_when_the_bytes_change(packed):
    signature = Path("archive/submission-smoke.tar.gz.sig")
    packed_bytes(packed)
    signature.write_text("of these bytes")
    packed_bytes(packed)
    assert signature.exists()
    Path("README.md").write_text("changed")
    packed_bytes(packed)
    assert not signature.exists()


def test_entries_carry_no_trace_of_the_machine(packed):
    data = packed_bytes(packed)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = tar.getmembers()
    assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {(0, 0, "", "", 0)}
    assert {e.name: e.mode for e in entries}["submission-smoke/.ci/run"] == 0o755
    assert {e.name: e.mode for e in entries}["submission-smoke/README.md"] == 0o644
    assert {e.name: e.mode for e in entries}["submission-smoke/REPRODUCE.md"] == 0o644
    assert data[4:8] == b"\0\0\0\0"  # gzip's own time
    assert data[3] == 0  # gzip's flags: no file name


def test_sums_check_after_unpacking(packed, tmp_path_factory):
    archive.run(packed)
    path = Path("archive/submission-smoke.tar.gz")
    assert Path(f"{path}.sha256").read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    subprocess.run(["sha256sum", "--check", "--quiet", f"{path.name}.sha256"], cwd="archive", check=True)
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as tar:
        tar.extractall(folder)  # without a filter: Python 3.11.2, Debian 12's, has none yet
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder / "submission-smoke", check=True)


@pytest.mark.parametrize(
    "name",
    [
        "outputs/smoke/stages/fetch.json",
        "outputs/smoke/metrics.json",
        "outputs/smoke/adapter",
        "reports/results.md",
        "reports/results.html",
    ],
)
def test_incomplete_run_is_not_packed(packed, name):
    path = Path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MissingInputError, match=name):
        archive.run(packed)
    assert not Path("archive").exists()
