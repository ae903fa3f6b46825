"""Files are written whole or not at all."""

import json

import pytest

from lorabundle.core.errors import MalformedInputError, MissingInputError, OutputError
from lorabundle.core.files import (
    Path,
    atomic_dir,
    atomic_write,
    changed_files,
    hash_paths,
    os,
    read_json,
    read_jsonl,
    sha256_bytes,
    write_json,
    write_jsonl,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    atomic_write(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match=r"metrics\.json: No space left on device.*df -h"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_dir(folder) as temporary:
        (temporary / "weights").write_text("old")

    def interrupted_write():
        with atomic_dir(folder) as temporary:
            (temporary / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert (folder / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_is_replaced_as_a_whole_and_leavings_of_killed_runs_are_swept(tmp_path):
    folder = tmp_path / "adapter"
    (tmp_path / ".adapter.killed").mkdir()
    for name in ("one", "two"):
        with atomic_dir(folder) as temporary:
            (temporary / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_unwritable_folder(tmp_path):
    (tmp_path / "outputs").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="Cannot write"):
        atomic_write(tmp_path / "outputs" / "x.json", "{}")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{"a": 1}\n{"a": \n', r"rows\.jsonl:2 is not valid JSON"),
        (b'{"a": 1}\n\n[1]\n', r"rows\.jsonl:3 is a list"),
        (b'{"a": "\xff"}\n', r"rows\.jsonl:1 is not UTF-8"),
        (b"[" * 100_000, r"rows\.jsonl:1 is not JSON that can be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", r"rows\.jsonl:1 is not JSON that can be read"),
    ],
)
def test_malformed_jsonl_names_the_line(tmp_path, content, where):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(MalformedInputError, match=where):
        read_jsonl(path, "Fix it.")


def test_jsonl_with_byte_order_mark_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}\r\n\r\n{"a": 2}')
    assert read_jsonl(path, "") == [{"a": "\u2028"}, {"a": 2}]


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(MissingInputError, match=r"metrics\.json does not exist\. Run `make eval`"):
        read_json(tmp_path / "metrics.json", "Run `make eval` first.")


def test_jsonl_round_trip(tmp_path):
    rows = [{"text": "é\n\u2028"}, {"n": 1}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl", "") == rows
    assert len((tmp_path / "rows.jsonl").read_bytes().split(b"\n")) == 3


def test_hash_paths_walks_folders_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    hashes = hash_paths([Path("b"), Path("a")])
    assert json.dumps(hashes) == json.dumps({"a": empty, "b/2": empty})


def test_changed_files_are_those_missing_or_of_another_hash(tmp_path):
    for name in ("same", "other"):
        (tmp_path / name).write_text(name)
    hashes = {"same": sha256_bytes(b"same"), "other": sha256_bytes(b"before"), "gone": "0" * 64}
    assert changed_files(tmp_path, hashes) == ["other", "gone"]
    assert changed_files(tmp_path, {"same": hashes["same"]}) == []
