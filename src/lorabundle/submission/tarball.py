"""The submission's tarball: its bytes depend only on its files, and it is unpacked only if they are the bytes that its files give.

So it can hold nothing but names, contents and which files are executable: no link, owner, time, device or extended header, and
nothing between or after the entries, which are sorted. tarfile's own extraction is not used.
"""

import gzip
import io
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from lorabundle.core.errors import UnsafeArchiveError
from lorabundle.core.files import writable

TOP = re.compile(r"submission-([A-Za-z0-9][A-Za-z0-9._-]*)")
MAX_BYTES = 2 << 30  # of the decompressed tar: a small file can decompress to any size
MTIME = 0  # 1970-01-01, for every entry


def make_tar(contents: dict[str, bytes], executable: set[str], top: str) -> bytes:
    """A tar of files below the folder `top`, sorted. Equal arguments give equal bytes.

    Args:
        contents: content of each file, by path.
        executable: paths of the executable files.
        top: name of the folder.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(contents.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), MTIME, 0o755 if name in executable else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def compress(tar: bytes) -> bytes:
    """The tar as gzip, without a name or a time."""
    return gzip.compress(tar, mtime=MTIME)


def unpack(archive: Path, folder: Path) -> str:
    """Unpack `archive` into the new folder `folder`, without its top folder.

    Returns:
        The name of the run, taken from the name of the top folder.

    Raises:
        UnsafeArchiveError: it cannot be read to its end, or is not what `make_tar` gives for regular files with plain, different
            paths below the top folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tar = _decompressed(archive)
        top, contents, executable = _entries(tar)
        if make_tar(contents, executable, top) != tar:
            raise UnsafeArchiveError(
                "The archive is not the file that `make archive` wrote: owners, times, the order or other things than names and contents of "
                "files differ. It may have been unpacked and packed again. Nothing was unpacked: ask for the original."
            )
    except (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError, OverflowError) as error:
        raise UnsafeArchiveError(
            f"The archive is damaged, or is not the file that `make archive` wrote ({error}). It may have been packed again. Copy it again, "
            f"or ask for the original."
        ) from error
    for name, data in contents.items():
        target = folder / name
        with writable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o755 if name in executable else 0o644)
    return TOP.fullmatch(top)[1]


def _decompressed(archive: Path) -> bytes:
    """The tar, if the gzip file holds nothing else. In gzip's header only the two bytes about the compressor may have any value."""
    data, stream = archive.read_bytes(), zlib.decompressobj(wbits=31)
    tar = stream.decompress(data, MAX_BYTES + 1)
    if len(tar) > MAX_BYTES:
        raise tarfile.ReadError(f"it is larger than {MAX_BYTES} bytes when decompressed")
    if not stream.eof:
        raise EOFError("its end is missing")
    if stream.unused_data or data[3:8] != bytes(5):
        raise tarfile.ReadError("its gzip file has a name or a time, or more bytes after its end")
    return tar


def _entries(tar: bytes) -> tuple[str, dict[str, bytes], set[str]]:
    """The top folder, the files' contents by path below it, and the paths of executable files."""
    contents: dict[str, bytes] = {}
    executable, folders, top = set(), set(), ""
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as entries:
        for entry in entries:
            top = top or entry.name.partition("/")[0]
            path = PurePosixPath(entry.name)
            name = PurePosixPath(*path.parts[1:])
            problem = _problem(entry, path, top)
            if not problem and (str(name) in contents.keys() | folders or {*map(str, name.parents)} & contents.keys()):
                problem = "occurs twice"
            if problem:
                raise UnsafeArchiveError(
                    f"The archive's entry {entry.name!r} {problem}. `make archive` writes no such entry, so nothing was unpacked: "
                    f"ask for the archive again."
                )
            folders |= {*map(str, name.parents)}
            contents[str(name)] = entries.extractfile(entry).read()
            executable |= {str(name)} if entry.mode == 0o755 else set()
    if not top:
        raise tarfile.ReadError("it is empty")
    return top, contents, executable


def _problem(entry: tarfile.TarInfo, path: PurePosixPath, top: str) -> str:
    """What is wrong with an entry; "" if nothing is."""
    if entry.type != tarfile.REGTYPE or entry.pax_headers:
        return "is a folder" if entry.isdir() else "is not a regular file"
    if path.is_absolute() or ".." in path.parts or "\\" in entry.name or len(path.parts) < 2:
        return "has a path that could lead outside its folder"
    if not entry.name.isprintable() or max(map(len, path.parts)) > 200:
        return "has a name that a terminal or a file system might not accept"
    if path.parts[0] != top or not TOP.fullmatch(top):
        return "is not below the one folder submission-<run>"
    return ""
