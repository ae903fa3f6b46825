"""Submissions that would write elsewhere, or are incomplete, are refused; nothing outside the folder is touched."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from lorabundle.core.errors import UnsafeArchiveError
from lorabundle.submission.tarball import unpack


def entry(name: str, **fields) -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(result, field, value)
    return result


def write(path: Path, *entries: tarfile.TarInfo, after: bytes = b"") -> Path:
    """A tar.gz of empty entries, or of `size` zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one in entries:
            tar.addfile(one, io.BytesIO(bytes(one.size)))
    path.write_bytes(gzip.compress(buffer.getvalue() + after, mtime=0))
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
        (entry("/etc/passwd"), "lead outside its folder"),
        (entry("submission-tiny/../../escaped"), "lead outside its folder"),
        (entry("submission-tiny\\..\\escaped"), "lead outside its folder"),
        (entry("submission-tiny"), "lead outside its folder"),
        (entry("elsewhere/file"), "not below the one folder"),
        (entry("submission-tiny/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a regular file"),
        (entry("submission-tiny/link", type=tarfile.LNKTYPE, linkname="submission-tiny/first"), "not a regular file"),
        (entry("submission-tiny/long", pax_headers={"comment": "more"}), "not a regular file"),
        (entry("submission-tiny/device", type=tarfile.CHRTYPE), "not a regular file"),
        (entry("submission-tiny/folder", type=tarfile.DIRTYPE), "is a folder"),
        (entry("submission-tiny/first"), "occurs twice"),
        (entry("submission-tiny/first/second"), "occurs twice"),
        (entry("submission-tiny/\x1b[2J"), "a terminal or a file system might not accept"),
        (entry("submission-tiny/\udcff"), "not a regular file"),
        (entry(f"submission-tiny/{'x' * 300}"), "not a regular file"),
    ],
)
def test_entries_that_make_archive_never_writes_are_refused(tmp_path, bad, why):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"), bad)
    with pytest.raises(UnsafeArchiveError, match=why):
        unpack(archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz"}


@pytest.mark.parametrize("top", ["tiny", "submission-", "submission-..", "xsubmission-tiny"])
def test_another_top_folder_is_refused(tmp_path, top):
    with pytest.raises(UnsafeArchiveError, match="not below the one folder submission-<run>"):
        unpack(write(tmp_path / "a.tar.gz", entry(f"{top}/first")), tmp_path / "folder")


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(UnsafeArchiveError, match="it is empty"):
        unpack(write(tmp_path / "a.tar.gz"), tmp_path / "folder")


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("lorabundle.submission.tarball.MAX_BYTES", 1000)
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/a", size=600), entry("submission-tiny/b", size=600))
    with pytest.raises(UnsafeArchiveError, match="larger than"):
        unpack(archive, tmp_path / "folder")


@pytest.mark.parametrize("fields", [{"mode": 0o6777}, {"mtime": 1}, {"uid": 1234}, {"uname": "someone"}])
def test_what_is_no_name_or_content_is_refused(tmp_path, fields):
    """As root, GNU tar would leave the modes and owners that an archive has."""
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first", **fields))
    with pytest.raises(UnsafeArchiveError, match="owners, times, the order or other things"):
        unpack(archive, tmp_path / "folder")


def test_broken_headers_are_refused(tmp_path):
    """Tarfile raises errors of its own for them: not only TarError."""
    header = bytearray(entry("submission-tiny/first").tobuf())
    for size in (b"-0000000001\0", b"zzzzzzzzzzz\0"):
        header[124:136], header[148:156] = size, b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024), mtime=0))
        with pytest.raises(UnsafeArchiveError):
            unpack(tmp_path / "a.tar.gz", tmp_path / "folder")


def test_what_is_incomplete_is_refused(tmp_path):
    whole = write(tmp_path / "a.tar.gz", entry("submission-tiny/first", size=5000)).read_bytes()
    for data in (b"", b"no archive", whole[:-12], whole[:40]):
        (tmp_path / "b.tar.gz").write_bytes(data)
        with pytest.raises(UnsafeArchiveError, match="The archive is damaged"):
            unpack(tmp_path / "b.tar.gz", tmp_path / "folder")


def test_content_behind_the_last_entry_is_refused(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"), after=b"more")
    with pytest.raises(UnsafeArchiveError, match="owners, times, the order or other things"):
        unpack(archive, tmp_path / "folder")


def test_every_flipped_byte_of_the_compressed_stream_is_noticed(tmp_path):
    """Except the two bytes of gzip's header about the program that packed it."""
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first", size=2000), entry("submission-tiny/second"))
    data = archive.read_bytes()
    for position in {*range(len(data))} - {8, 9}:
        archive.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(UnsafeArchiveError):
            unpack(archive, tmp_path / "folder")


def test_files_in_another_order_are_refused(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/second"), entry("submission-tiny/first"))
    with pytest.raises(UnsafeArchiveError, match="owners, times, the order or other things"):
        unpack(archive, tmp_path / "folder")


def test_content_behind_the_gzip_stream_is_refused(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"))
    for after in (b"more", bytes(512), gzip.compress(b"", mtime=0)):
        (tmp_path / "b.tar.gz").write_bytes(archive.read_bytes() + after)
        with pytest.raises(UnsafeArchiveError, match="more bytes after its end"):
            unpack(tmp_path / "b.tar.gz", tmp_path / "folder")


def test_executable_files_stay_executable(tmp_path):
    archive = write(tmp_path / "a.tar.gz", entry("submission-tiny/first"), entry("submission-tiny/run", mode=0o755))
    unpack(archive, tmp_path / "folder")
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "folder").iterdir())] == [0o644, 0o755]
