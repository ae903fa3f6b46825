"""Unpack a submission that nobody vouches for: regular files below one folder, and nothing else.

The tarball's entries are read and written one by one; tarfile's own extraction, with its links, owners and devices, is not used.
"""

import gzip
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from lorabundle import artifacts
from lorabundle.errors import UnsafeArchiveError

TOP = re.compile(
    r"submission-([A-Za-z0-9][A-Za-z0-9._-]*)"
)  # the one folder at the top; names of runs are as in config.Name
MAX_BYTES = 8 << 30  # of all files together: a small tarball can unpack to any size


def unpack(archive: Path, folder: Path) -> str:
    """Unpack `archive` into the new folder `folder`, without its top folder.

    Returns:
        The name of the run, which the top folder is called after.

    Raises:
        UnsafeArchiveError: it cannot be read to its end, or an entry is not a regular file with a plain path of its own below
            the top folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    top, total = "", 0
    try:
        with tarfile.open(archive, "r:gz") as entries:
            for entry in entries:
                top = top or entry.name.partition("/")[0]
                total += entry.size
                problem = _problem(entry, top) or ("makes it larger than 8 GiB unpacked" if total > MAX_BYTES else "")
                target = folder.joinpath(*PurePosixPath(entry.name).parts[1:])
                if not problem and (target.exists() or any(parent.is_file() for parent in target.parents)):
                    problem = "is there twice"
                if problem:
                    raise UnsafeArchiveError(
                        f"{archive}: its entry {entry.name!r} {problem}. `make archive` writes no such entry, so nothing more was "
                        f"unpacked: ask for the archive again."
                    )
                with artifacts.writable(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(entries.extractfile(entry).read())
            _read_to_the_end(entries)
        if not top:
            raise tarfile.ReadError("it is empty")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UnsafeArchiveError(
            f"{archive} cannot be read to its end ({error}): it is not a whole tar.gz file. Copy it again, or ask for it again."
        ) from error
    return TOP.fullmatch(top)[1]


def _problem(entry: tarfile.TarInfo, top: str) -> str:
    """What is wrong with an entry, or nothing."""
    path = PurePosixPath(entry.name)
    if not entry.isreg():
        return "is no regular file"
    if path.is_absolute() or ".." in path.parts or "\\" in entry.name or len(path.parts) < 2:
        return "has a path that could lead elsewhere"
    if not entry.name.isprintable():
        return "has a name that a terminal would not show as it is"
    if path.parts[0] != top or not TOP.fullmatch(top):
        return "is not below one folder submission-<run>"
    return ""


def _read_to_the_end(entries: tarfile.TarFile) -> None:
    """Let gzip compare its checksum, which it does at the end of its stream, and refuse what stands behind the entries."""
    entries.fileobj.seek(entries.offset)
    while block := entries.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("there is something behind its last entry")
