"""Hashes: a changed, missing or added file is found, by SHA256SUMS, by the run's own files or by this checkout."""

import json
from pathlib import Path

import pytest

from lorabundle import archive
from lorabundle.core.files import atomic_write
from lorabundle.verification.hash_checks import check_files, check_sources, check_statements, read_sums
from tests.fake_submission import contents, flipped, lines, repack, tampered, unpacked

RECORD = "outputs/smoke/stages/train.json"


def test_lines_of_sha256sum_and_others(tmp_path):
    digest = "0" * 64
    (tmp_path / "sums").write_text(f"{digest}  a b\n# {digest}  c\n{digest}  d\x85e\n{digest[:-1]}  f\n")
    assert read_sums(tmp_path / "sums") == {
        "a b": digest,
        f"# {digest}  c": "no sha256 and path",
        "d\x85e": digest,
        f"{digest[:-1]}  f": "no sha256 and path",
    }
    assert list(read_sums(tmp_path / "none")) == [""]


def test_an_untouched_archive_has_no_difference(shipped):
    submission = unpacked()
    assert check_files(submission) == check_statements(submission) == check_sources(submission) == []


def test_each_flipped_byte_is_found(shipped):
    """One in the middle of each file, and one that Python, unlike sha256sum, takes for the end of a line too."""
    submission = unpacked()
    files = submission.paths()
    assert len(files) > 30
    for name in files:
        path = submission.folder / name
        data = path.read_bytes()
        path.write_bytes(flipped(data, len(data) // 2))
        found = [difference.where for difference in check_files(submission)]
        assert found if name == "SHA256SUMS" else found == [name], (
            name
        )  # in the list, the file that the line is of differs
        path.write_bytes(data)
    sums = (submission.folder / "SHA256SUMS").read_bytes()
    (submission.folder / "SHA256SUMS").write_bytes(flipped(sums, len(sums) - 1))
    assert check_files(submission)


def test_removed_added_and_renamed_files_are_found(shipped):
    submission = unpacked()
    for name in submission.paths():
        path, other = submission.folder / name, submission.folder / f"{name}x"
        path.rename(other)
        found = [difference.where for difference in check_files(submission)]
        assert found if name == "SHA256SUMS" else found == [name, f"{name}x"], name
        data = other.read_bytes()
        other.unlink()
        assert check_files(submission), name
        path.write_bytes(data)
    atomic_write(submission.folder / "outputs/smoke/new", "")
    (line,) = lines(check_files(submission))
    assert line.startswith("outputs/smoke/new: expected no such file in SHA256SUMS, found e3b0c442")


def test_a_commented_list_lists_nothing(shipped):
    """`sha256sum -c` would pass it, because it checks no file."""
    sums = contents(shipped)["SHA256SUMS"]
    submission = unpacked({"SHA256SUMS": b"# " + sums.replace(b"\n", b"\n# ")})
    assert len(check_files(submission)) > len(submission.paths())


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("outputs/smoke/adapter/adapter_model.safetensors", b"weights", b"Weights", "in RESULTS.sha256"),
        ("outputs/smoke/examples.jsonl", b'"nats": 10.0', b'"nats": 11.0', "in stages/evaluate.json (outputs)"),
        (RECORD, b'"lorabundle.train"', b'"other.trainer"', "stages/train.json.command.2: expected lorabundle.train"),
    ],
)
def test_hashes_that_the_run_states_are_checked(shipped, name, old, new, where):
    found = lines(check_statements(unpacked(tampered(shipped, name, old, new))))
    assert any(where in line for line in found), found


@pytest.mark.parametrize("name", ["GNUmakefile", "docker/wheels/more.whl", "src/lorabundle/more.pyc", ".hidden"])
def test_what_no_one_would_miss_is_found(shipped, name):
    """Make would read the first in place of Makefile; the others are where the source tree has what was built."""
    (line,) = lines(check_statements(unpacked({name: b"more"})))
    assert line.startswith(f"{name}: expected no such file: it does not belong to the run, found a file")


def test_results_that_a_record_names_must_be_there(shipped):
    submission = unpacked()
    (submission.run_dir / "adapter/README.md").unlink()
    found = lines(check_statements(submission))
    assert "outputs/smoke/adapter/README.md: expected a file, found no such file, tolerance none" in found


def test_records_must_agree_about_files_that_are_not_there(shipped):
    """The splits are not in the archive; three files say what they were."""
    record = json.loads(contents(shipped)[RECORD])
    record["inputs"]["data/processed/train/data.arrow"] = "0" * 64
    (difference,) = check_statements(unpacked({RECORD: json.dumps(record).encode()}))
    assert difference.where == "data/processed/train/data.arrow, in stages/train.json (inputs)"


def test_paths_that_lead_elsewhere_are_not_followed(shipped):
    """A record could name files of this machine, or paths that no file can have."""
    record = json.loads(contents(shipped)[RECORD])
    Path("../outside").write_text("x")
    record["inputs"] |= {
        path: "0" * 64 for path in ("/etc/hostname", "../outside", "x" * 5000, "\0", "a/../../outside")
    }
    assert check_statements(unpacked({RECORD: json.dumps(record).encode()})) == []


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b'{"command": "python"}', b"\xff", b"[" * 100_000])
def test_a_record_of_another_form_is_a_difference(shipped, data):
    found = lines(check_statements(unpacked({RECORD: data})))
    assert any(line.startswith("stages/train.json") for line in found), found


def test_sources_are_those_of_the_checkout(shipped):
    submission = unpacked()
    atomic_write(Path("src/lorabundle/train.py"), "print('other')\n")
    atomic_write(Path("src/lorabundle/more.py"), "")
    atomic_write(Path("docs/trust.md"), "new")
    found = [line.split(",")[0] for line in lines(check_sources(submission))]
    assert found == ["docs/trust.md", "src/lorabundle/more.py", "src/lorabundle/train.py"]


@pytest.mark.parametrize("name", ["src/lorabundle/train.py", "docker/requirements.lock", "config/smoke.yaml"])
def test_changed_sources_of_the_archive_are_found(shipped, name):
    (line,) = lines(check_sources(unpacked({name: b"other"})))
    assert line.startswith(f"{name}, of this checkout and of the archive: expected ")


def test_a_config_of_the_authors_own_is_no_difference(shipped, packed, capsys):
    atomic_write(Path("config/mine.yaml"), "run: mine\n")
    archive.run(packed)
    Path("config/mine.yaml").unlink()
    assert check_sources(unpacked()) == []
    assert "config/mine.yaml exists on one side only and is not compared" in capsys.readouterr().out


def test_executable_files_are_those_of_the_checkout(shipped):
    Path(".ci/run").chmod(0o644)
    repack(contents(shipped))
    Path(".ci/run").chmod(0o755)
    (line,) = lines(check_sources(unpacked()))
    assert line.startswith(".ci/run, of this checkout and of the archive: expected executable, found not executable")
