"""Compressed files: opened as what they hold, with a limit on what they may unpack to."""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from lorabundle.core.errors import MalformedInputError

# The default data is 8.5 times as large as its .gz and 10 times as large as its .xz; one repeated letter, 1,029 times as its .gz
SMALL = 1 << 28  # bytes: up to here (268 MB) any file may unpack
MOST_TIMES = 100  # beyond, a file may unpack to this many times its size

CHUNK = 1 << 14  # bytes unpacked at once: a bomb's factor of a thousand makes 16 MB of them
DAMAGED = (EOFError, OSError, lzma.LZMAError, zstandard.ZstdError)  # what the libraries raise for a damaged file


class _Zstandard(io.RawIOBase):
    """A .zst file, unpacked. The library's own reader takes a file that was cut off for a shorter one, without a word."""

    def __init__(self, path: Path):
        self.file = path.open("rb")
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.started, self.unpacked = False, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.unpacked:
            packed = self.frame.unused_data if self.frame.eof else b""
            packed = packed or self.file.read(CHUNK)
            if not packed:
                if self.started and not self.frame.eof:
                    raise EOFError("it ends in the middle")
                return 0
            if self.frame.eof:  # several frames may follow one another
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.started = True
            self.unpacked = self.frame.decompress(packed)
        count = min(len(buffer), len(self.unpacked))
        buffer[:count], self.unpacked = self.unpacked[:count], self.unpacked[count:]
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


OPENERS = {".gz": gzip.open, ".zst": _Zstandard, ".xz": lzma.open, ".bz2": bz2.open}


class _Limited(io.RawIOBase):
    """A file that refuses to unpack to more than `limit` bytes."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.read_so_far = file, path, 0
        self.limit = max(SMALL, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            content = self.file.read(len(buffer))
        except DAMAGED as error:
            raise MalformedInputError(
                f"{self.path} is damaged or is not a {self.path.suffix} file: it cannot be unpacked ({error}). Copy or download it again."
            ) from error
        self.read_so_far += len(content)
        if self.read_so_far > self.limit:
            raise too_large(self.path, self.limit)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def too_large(path: Path, limit: int) -> MalformedInputError:
    """The error about a file that unpacks to an absurd size."""
    return MalformedInputError(
        f"{path} has {path.stat().st_size:,} bytes and unpacks to more than {limit:,}, which no real dataset does. If it is yours and "
        f"meant to be so large, unpack it yourself and name the unpacked file."
    )


# First bytes -> what such a file is, and what to do; files are often saved under another format's name
STARTS = {
    b"PAR1": "is a Parquet file. Give it the suffix .parquet",
    b"ARROW1": "is an Arrow file. Give it the suffix .arrow",
    b"PK\x03\x04": "is a zip archive, as XLSX files are. Give it the suffix .xlsx, or unpack it",
    b"\x1f\x8b": "is compressed. Give it the suffix of its format and then .gz",
    b"\x28\xb5\x2f\xfd": "is compressed. Give it the suffix of its format and then .zst",
    b"\xfd7zXZ\x00": "is compressed. Give it the suffix of its format and then .xz",
    b"BZh": "is compressed. Give it the suffix of its format and then .bz2",
    b"<!doctype": "is a web page, perhaps a site's error page. Download the file itself",
    b"<html": "is a web page, perhaps a site's error page. Download the file itself",
    b"<?xml": "is XML. Write its rows as JSON or CSV",
    b"version https://git-lfs": "is a Git LFS pointer, not the file that it stands for. Run `git lfs pull` where it comes from",
}


def check_is_text(path: Path, start: bytes) -> None:
    """Raise `MalformedInputError` if a file that should hold JSON or CSV begins like something else; the message says what it is."""
    lowered = start.lstrip().lower()
    for magic, what in STARTS.items():
        if start.startswith(magic) or lowered.startswith(magic):
            raise MalformedInputError(f"{path} {what}, and name that file.")


def packed_suffix(path: Path) -> str:
    """The suffix of a compressed file, `.gz` of mine.csv.gz; none if the name says that it is not compressed."""
    suffix = path.suffix.lower()
    return suffix if suffix in OPENERS else ""


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, unpacked as its name says; they can be read once, from the start.

    Raises:
        MalformedInputError: it is damaged, or unpacks to an absurd size.
    """
    suffix = packed_suffix(path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(OPENERS[suffix](path) if suffix else path.open("rb"))
        yield stack.enter_context(io.BufferedReader(_Limited(file, path) if suffix else file, 1 << 16))


@contextlib.contextmanager
def open_seekable(path: Path) -> Iterator[BinaryIO]:
    """As `open_unpacked`, for formats whose reader jumps about: a compressed file is unpacked to a temporary one."""
    if not packed_suffix(path):
        with path.open("rb") as file:
            yield file
        return
    with open_unpacked(path) as packed, tempfile.TemporaryFile() as file:
        shutil.copyfileobj(packed, file)
        file.seek(0)
        yield file


def check_zip(path: Path, file: BinaryIO) -> None:
    """Refuse a zip archive, as XLSX files are, that is damaged or unpacks to an absurd size. Its directory has the sizes.

    Raises:
        MalformedInputError: it is.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise MalformedInputError(
            f"{path} is damaged or is not an XLSX file: {error}. Open it in a spreadsheet program, and save it again as .xlsx or .csv."
        ) from error
    limit = max(SMALL, MOST_TIMES * path.stat().st_size)
    if unpacked > limit:
        raise too_large(path, limit)
    file.seek(0)
