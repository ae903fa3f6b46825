"""Compressed files: read as what they hold, and refused if they are damaged or unpack to absurd sizes."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
import zstandard

from lorabundle.core.errors import MalformedInputError
from lorabundle.data import packed
from lorabundle.data.packed import check_is_text, check_zip, open_seekable, open_unpacked

PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
TEXT = b"one line\n" * 10_000


@pytest.mark.parametrize("suffix", PACK)
def test_content_is_what_was_packed(tmp_path, suffix):
    path = tmp_path / f"d.jsonl{suffix}"
    path.write_bytes(PACK[suffix](TEXT))
    with open_unpacked(path) as file:
        assert file.read() == TEXT
    with open_seekable(path) as file:
        file.seek(9)
        assert file.read(8) == b"one line"


@pytest.mark.parametrize("suffix", PACK)
def test_members_one_after_another_are_one_file(tmp_path, suffix):
    path = tmp_path / f"d.jsonl{suffix}"
    path.write_bytes(PACK[suffix](TEXT) * 2)
    with open_unpacked(path) as file:
        assert file.read() == TEXT * 2


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"d.jsonl{suffix}"
    content = PACK[suffix](bytes(range(256)) * 4000)
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"plain text\n" * 10)
    with pytest.raises(MalformedInputError, match=rf"d\.jsonl\{suffix} is damaged"), open_unpacked(path) as file:
        file.read()


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_that_unpacks_to_an_absurd_size_is_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(packed, "SMALL", 100_000)
    path = tmp_path / f"d.jsonl{suffix}"
    path.write_bytes(PACK[suffix](bytes(10_000_000)))
    with pytest.raises(MalformedInputError, match="unpacks to more than"), open_unpacked(path) as file:
        file.read()
    path.write_bytes(PACK[suffix](TEXT))  # an ordinary file above the small size is read
    with open_unpacked(path) as file:
        assert len(file.read()) == len(TEXT)


def test_a_zip_that_unpacks_to_an_absurd_size_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "SMALL", 100_000)
    path = tmp_path / "d.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sheet.xml", bytes(10_000_000))
    with path.open("rb") as file, pytest.raises(MalformedInputError, match="unpacks to more than"):
        check_zip(path, file)
    with pytest.raises(MalformedInputError, match="is damaged or is not an XLSX file"):
        check_zip(path, io.BytesIO(b"PK\x03\x04"))


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PAR1\x15\x04", r"d\.csv is a Parquet file\. Give it the suffix \.parquet"),
        (b"ARROW1\x00", "is an Arrow file"),
        (b"PK\x03\x04", "is a zip archive"),
        (gzip.compress(TEXT), r"is compressed.*then \.gz"),
        (zstandard.compress(TEXT), r"then \.zst"),
        (lzma.compress(TEXT), r"then \.xz"),
        (bz2.compress(TEXT), r"then \.bz2"),
        (b"\n<!DOCTYPE html>", "is a web page"),
        (b"<HTML><body>", "is a web page"),
        (b'<?xml version="1.0"?>', "is XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, says):
    with pytest.raises(MalformedInputError, match=says):
        check_is_text(tmp_path / "d.csv", start)


@pytest.mark.parametrize("start", [b"", b"a,b\n", b"[1]", b"BZ is a name, not a mark", b"<s>,b\n"])
def test_text_is_text(tmp_path, start):
    check_is_text(tmp_path / "d.csv", start)
