"""Submissions that would write elsewhere, or are not whole, are refused; nothing outside the folder is touched."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from lorabundle.errors import UnsafeArchiveError
from lorabundle.unpacking import unpack


def entry(name: str, **fields) -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(result, field, value)
    return result


def write(path: Path, *entries: tarfile.TarInfo, behind: bytes = b"") -> Path:
    """A tar.gz of empty entries, or of `size` zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one in entries:
            tar.addfile(one, io.BytesIO(bytes(one.size)))
    path.write_bytes(gzip.compress(buffer.getvalue() + behind))
    return path


def test_files_are_unpacked_below_the_folder(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/a/b.txt", size=3), entry("submission-tiny/c"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()
    assert unpack(archive, tmp_path / "folder") == "tiny"
    found = {path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*")}
    assert found == {"a", "a/b.txt", "c"}
    assert (tmp_path / "folder/a/b.txt").read_bytes() == bytes(3)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entry("/etc/passwd"), "lead elsewhere"),
        (entry("submission-tiny/../../escaped"), "lead elsewhere"),
        (entry("submission-tiny\\..\\escaped"), "lead elsewhere"),
        (entry("submission-tiny"), "lead elsewhere"),
        (entry("elsewhere/file"), "not below one folder"),
        (entry("submission-tiny/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no regular file"),
        (entry("submission-tiny/link", type=tarfile.LNKTYPE, linkname="submission-tiny/first"), "no regular file"),
        (entry("submission-tiny/device", type=tarfile.CHRTYPE), "no regular file"),
        (entry("submission-tiny/folder", type=tarfile.DIRTYPE), "no regular file"),
        (entry("submission-tiny/first"), "is there twice"),
        (entry("submission-tiny/first/second"), "is there twice"),
        (entry("submission-tiny/\x1b[2J"), "a terminal would not show"),
        (entry("submission-tiny/\udcff"), "a terminal would not show"),
    ],
)
def test_entries_that_make_archive_never_writes_are_refused(tmp_path, bad, why):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"), bad)
    with pytest.raises(UnsafeArchiveError, match=why):
        unpack(archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "folder"}


@pytest.mark.parametrize("top", ["tiny", "submission-", "submission-..", "xsubmission-tiny"])
def test_another_top_folder_is_refused(tmp_path, top):
    with pytest.raises(UnsafeArchiveError, match="not below one folder submission-<run>"):
        unpack(write(tmp_path / "a.tar.gz", entry(f"{top}/first")), tmp_path / "folder")


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(UnsafeArchiveError, match="it is empty"):
        unpack(write(tmp_path / "a.tar.gz"), tmp_path / "folder")


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("lorabundle.unpacking.MAX_BYTES", 1000)
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/a", size=600), entry("submission-tiny/b", size=600))
    with pytest.raises(UnsafeArchiveError, match="larger than"):
        unpack(archive, tmp_path / "folder")


def test_what_is_not_whole_is_refused(tmp_path):
    whole = write(tmp_path / "a.tar.gz", entry("submission-tiny/first", size=5000)).read_bytes()
    for data in (b"", b"no archive", whole[:-12], whole[:40]):
        (tmp_path / "b.tar.gz").write_bytes(data)
        with pytest.raises(UnsafeArchiveError, match="cannot be read to its end"):
            unpack(tmp_path / "b.tar.gz", tmp_path / "folder")


def test_content_behind_the_last_entry_is_refused(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"), behind=b"more")
    with pytest.raises(UnsafeArchiveError, match="behind its last entry"):
        unpack(archive, tmp_path / "folder")


def test_every_flipped_byte_of_the_compressed_stream_is_noticed(tmp_path):
    """But for gzip's own header, which holds no content: time, flags and system of the packing."""
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first", size=2000), entry("submission-tiny/second"))
    data = archive.read_bytes()
    for position in range(10, len(data)):
        archive.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(UnsafeArchiveError):
            unpack(archive, tmp_path / "folder")
