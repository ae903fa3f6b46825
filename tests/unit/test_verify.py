"""A submission is checked from its tarball: levels, verdicts and exit codes, and changes that fit all other files."""

import json
import shutil
from pathlib import Path

import pytest

from lorabundle import archive, verify
from lorabundle.core.files import atomic_write, hash_paths, read_json, sha256_bytes, write_json
from lorabundle.submission import tarball
from lorabundle.verification.unpacked import ADAPTER, FOLDER, RERUN, SHIPPED
from tests.fake_submission import ARCHIVE, contents, pack_again, repack, write_records


def run(action: str = "check", level: str = "report", *options: str) -> int:
    """The exit code of the command."""
    return verify.main([action, "--archive", str(ARCHIVE), "--level", level, *options])


def check(level: str = "report") -> list[str]:
    """The differences."""
    findings = verify.check(ARCHIVE, level)
    assert findings.failures == {}
    return [str(difference) for difference in findings.differences]


def test_an_untouched_archive_has_no_difference(shipped, capsys):
    assert run() == 0
    assert "[verify] VERIFIED: 0 differences (level report)" in capsys.readouterr().out


def test_a_changed_archive_has_exit_code_3(shipped, capsys):
    files = contents(shipped)
    logged = sha256_bytes(files["outputs/smoke/logs/train.log"])
    repack(files | {"outputs/smoke/logs/train.log": b""})
    assert run(level="hashes") == 3
    said = capsys.readouterr().out
    assert f"DIFFERENCE outputs/smoke/logs/train.log: expected {logged}, found e3b0c44" in said
    assert "[verify] DIFFERENT: 1 difference (level hashes)" in said


def test_no_archive_is_bad_input(workspace, capsys):
    assert run() == 2
    assert "submission-smoke.tar.gz does not exist" in capsys.readouterr().err


def test_an_archive_that_is_cut_short_is_a_difference(shipped, capsys):
    ARCHIVE.write_bytes(ARCHIVE.read_bytes()[:-20])
    assert run(level="full") == 3
    assert "The archive is damaged, or is not the file" in capsys.readouterr().err


def bug(*arguments) -> list:
    raise KeyError("a bug made on purpose")


@pytest.mark.parametrize(("checks", "name"), [("HASHES", "sources"), ("REPORT", "report")])
def test_a_bug_in_a_check_is_no_difference(shipped, capsys, monkeypatch, checks, name):
    """Any exception was once a DIFFERENCE without a traceback, so that a bug of ours spoke against the archive."""
    monkeypatch.setitem(getattr(verify, checks), name, bug)
    assert run() == 1
    captured = capsys.readouterr()
    assert (
        f"[verify] CHECK FAILED: {name}: KeyError: 'a bug made on purpose' (this is a bug in lorabundle" in captured.out
    )
    assert "[verify] NOT VERIFIED: 1 of the checks failed, 0 differences (level report)" in captured.out
    assert "DIFFERENCE " not in captured.out
    assert "VERIFIED: 0" not in captured.out
    assert "outputs/.verify/failed-checks.log" in captured.out
    logged = Path("outputs/.verify/failed-checks.log").read_text()
    assert "Traceback (most recent call last)" in logged
    assert "in bug\n" in logged
    assert captured.err == ""


def test_debug_prints_the_traceback_of_a_bug(shipped, capsys, monkeypatch):
    monkeypatch.setitem(verify.REPORT, "scores", bug)
    assert run("check", "report", "--debug") == 1
    assert "in bug\n" in capsys.readouterr().err


def test_a_bug_does_not_hide_differences(shipped, capsys, monkeypatch):
    monkeypatch.setitem(verify.HASHES, "sources", bug)
    repack(contents(shipped) | {"outputs/smoke/logs/train.log": b""})
    assert run(level="hashes") == 1
    said = capsys.readouterr().out
    assert "DIFFERENCE outputs/smoke/logs/train.log" in said
    assert "NOT VERIFIED: 1 of the checks failed, 1 difference (level hashes)" in said


def test_a_bug_in_the_comparison_is_no_difference(shipped, capsys, monkeypatch):
    monkeypatch.setattr(verify, "check_rerun", bug)
    assert run("compare", "eval") == 1
    assert "CHECK FAILED: eval: KeyError" in capsys.readouterr().out


def test_a_full_disk_is_neither_a_bug_nor_a_difference(shipped, capsys, monkeypatch):
    def full(*arguments) -> list:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(verify.REPORT, "report", full)
    assert run() == 1
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err
    assert "CHECK FAILED" not in captured.out
    assert "VERIFIED" not in captured.out


def test_stages_are_laid_out_only_for_levels_that_run_them(shipped, capsys):
    for level, folders in [("report", set()), ("eval", {"eval"}), ("full", {"eval", "full"})]:
        shutil.rmtree(FOLDER, ignore_errors=True)
        assert run(level=level) == 0
        assert {path.name for path in FOLDER.iterdir()} == {"shipped"} | folders
        assert ("VERIFIED" in capsys.readouterr().out) == (level == "report")  # the others are compared first
    shutil.rmtree(FOLDER)
    repack(contents(shipped) | {"outputs/smoke/logs/train.log": b""})
    assert run(level="full") == 3
    assert {path.name for path in FOLDER.iterdir()} == {"shipped"}


def test_an_archive_without_a_config_is_not_laid_out(shipped):
    files = contents(shipped)
    del files["outputs/smoke/config.yaml"]
    repack(files, sums=True)
    assert any(line.startswith("outputs/smoke/config.yaml: expected a file") for line in check("full"))
    assert {path.name for path in FOLDER.iterdir()} == {"shipped"}


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("adapter/README.md", b"1.4000", b"0.0123", "sha256 of.adapter/README.md: expected"),
        ("adapter/adapter_config.json", b"data/models", b"evil/models", "adapter/adapter_config.json.base_model_name"),
        ("adapter/adapter_config.json", b'"r": ', b'"r": 1', "adapter/adapter_config.json.r: expected"),
        ("adapter/tokenizer.json", b"", b"{}", "sha256 of.adapter/tokenizer.json: expected nothing"),
        ("environment.json", b'"torch": "2', b'"torch": "9', "environment.json.packages.torch: expected 2"),
        ("environment.json", b'"torch"', b'"evil"', "environment.json.packages.evil: expected not locked"),
        ("stages/train.json", b'"lorabundle.train"', b'"other.trainer"', "stages/train.json.command.2: expected"),
        ("adapter/adapter_model.bin", b"", b"more", "adapter/adapter_model.bin: expected no such file"),
        ("logs/notes.md", b"", b"more", "logs/notes.md: expected no such file"),
        ("config.yaml", b"seed:", b"# nothing to see\nseed:", "config.yaml, written again: expected"),
        ("config.yaml", b"numerics: fast\n", b"numerics: 'fast'\n", "config.yaml, written again: expected"),
    ],
)
def test_a_run_that_was_forged_throughout_is_found(shipped, packed, name, old, new, where):
    """Records, report, documents and lists all fit; a record names even the files that no run has."""
    run_dir = packed.run_dir
    data = (run_dir / name).read_bytes() if (run_dir / name).exists() else b""
    assert old in data
    atomic_write(run_dir / name, data.replace(old, new, 1) if old else new)
    if not name.startswith("stages"):
        write_records(packed)
    record = read_json(packed.record_path("train"), "")
    record["outputs"] |= hash_paths([run_dir / name]) if name.startswith(("adapter", "logs")) else {}
    write_json(packed.record_path("train"), record)
    pack_again(packed)
    files = contents(shipped)
    repack(files | {f"{run_dir}/{name}": (run_dir / name).read_bytes()}, sums=True)
    found = check()
    assert any(where in line for line in found), found


def test_a_checkout_with_docs_is_verified(shipped, packed):
    for name in ("docs/trust.md", "docs/images/report.svg"):
        atomic_write(Path(name), name)
    archive.run(packed)
    assert "docs/images/report.svg" in contents(shipped)
    assert check() == []
    atomic_write(Path("docs/trust.md"), "changed")
    (line,) = check()
    assert line.startswith("docs/trust.md, of this checkout and of the archive: expected ")
    shutil.rmtree("docs")
    assert len(check("hashes")) == 2


def rerun(level: str = "full", adapter: bytes = b"weights", **changes) -> None:
    """Leave what the stages would: the shipped files, with changes to the adapter and to metrics.json."""
    tarball.unpack(ARCHIVE, SHIPPED)
    run_dir = RERUN[level] / "outputs/smoke"
    shutil.copytree(SHIPPED / "outputs/smoke", run_dir, dirs_exist_ok=True)
    (run_dir / ADAPTER).write_bytes(adapter)
    metrics = read_json(run_dir / "metrics.json", "")
    metrics["models"]["finetuned"] |= changes
    write_json(run_dir / "metrics.json", metrics)


def compare(level: str = "full") -> list[str]:
    """The differences from what the stages gave."""
    findings = verify.compare(ARCHIVE, level)
    assert findings.failures == {}
    return [str(difference) for difference in findings.differences]


def test_a_rerun_with_the_same_results_is_verified(shipped, capsys):
    rerun()
    assert run("compare", "full") == 0
    assert "[verify] VERIFIED: 0 differences (level full)" in capsys.readouterr().out


def test_an_adapter_that_training_does_not_give_again_is_evaluated_itself(shipped):
    """Otherwise any adapter could be shipped with true numbers."""
    rerun(adapter=b"other weights")
    (line,) = compare()
    assert line.startswith("eval: expected files that can be read, found MissingInputError")
    rerun("eval", loss=1.5)
    assert compare() == []
    rerun("eval", loss=2.0)
    (line,) = compare()
    assert line.startswith("metrics.json.models.finetuned.loss: expected 1.5, found 2.0, tolerance")
    rerun()
    assert compare() == []


def test_a_file_that_cannot_be_read_is_a_difference_in_the_comparison_too(shipped):
    rerun()
    files = contents(shipped)
    metrics = json.loads(files["outputs/smoke/metrics.json"])
    metrics["models"] = []
    repack(files | {"outputs/smoke/metrics.json": json.dumps(metrics).encode()}, sums=True)
    (line,) = compare()
    assert line.startswith("metrics.json.models: expected ")
