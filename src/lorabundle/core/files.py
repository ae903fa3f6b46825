"""Files that stages write, completely or not at all, and identify by sha256.

A stage's record (`outputs/<run>/stages/<stage>.json`) is written last, so if it exists, the stage has completed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lorabundle.core.errors import MalformedInputError, MissingInputError, OutputError


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing `path` into an `OutputError` that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Check the free space (`df -h .`) and that the folder is "
            f"writable by user id {os.getuid()}, then run the same command again."
        ) from error


def atomic_write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` to `path` so that a reader sees the old or the new file, never a part of it (temp, fsync, rename).

    Raises:
        OutputError: the folder is not writable or the disk is full; an earlier file at `path` is untouched.
    """
    content = content.encode() if isinstance(content, str) else content
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`. If the block succeeds, the folder replaces `path`; if not, it is removed.

    Raises:
        OutputError: the parent folder is not writable.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".{path.name}.*"):  # of a run that was killed
            shutil.rmtree(left_over)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        with writable(path):
            for file in temporary.rglob("*"):
                if file.is_dir() or file.stat().st_nlink == 1:  # a hard link's other name belongs to someone else
                    file.chmod(0o755 if file.is_dir() else 0o644)  # mkdtemp and safetensors leave owner-only modes
            temporary.chmod(0o755)
            if path.exists():  # a folder cannot replace a full one in one call; the gap is two system calls long
                os.replace(path, path.with_name(f".{path.name}.old"))
            os.replace(temporary, path)
            shutil.rmtree(path.with_name(f".{path.name}.old"), ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def scratch_dir(path: Path) -> Iterator[Path]:
    """An empty folder for data that is too large for memory, removed when the block ends.

    Raises:
        OutputError: it cannot be created.
    """
    with writable(path):
        shutil.rmtree(path, ignore_errors=True)  # of a run that was killed
        path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON. Keys keep their order; NaN and infinity are refused (ValueError)."""
    atomic_write(path, to_json(value))


def write_json_if_changed(path: Path, value: Any) -> None:
    """Write JSON, but do not touch an equal file: make reruns what depends on a newer file."""
    text = to_json(value)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        atomic_write(path, text)


def to_json(value: Any) -> str:
    """The content of a JSON file: indented, with a line break at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    atomic_write(path, (to_jsonl(row).encode() for row in rows))


def to_jsonl(row: dict) -> str:
    """A line of a file with one JSON object a line."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def require(path: Path, remedy: str) -> Path:
    """Return `path` if it exists.

    Raises:
        MissingInputError: it does not; `remedy` is the sentence that says what to do.
    """
    if not path.exists():
        raise MissingInputError(f"{path} does not exist. {remedy}")
    return path


def read_json(path: Path, remedy: str) -> Any:
    """Parse a JSON file that another stage wrote.

    Raises:
        MissingInputError: the file is not there.
        MalformedInputError: it is not JSON.
    """
    try:
        return json.loads(require(path, remedy).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MalformedInputError(f"{path} is not valid JSON ({error}). {remedy}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of each line that is not blank; a byte order mark is skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removesuffix(b"\n")
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if text.strip():
                yield number, text


def parse_object(line: bytes) -> dict:
    """The JSON object on a line.

    Raises:
        ValueError: the line is not one; its two arguments are a short name of the cause, and what is wrong with the line.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 (byte {error.start} of the line): save the file in that encoding"
        raise ValueError("not_utf8", reason) from error
    except json.JSONDecodeError as error:
        raise ValueError("not_json", f"is not valid JSON ({error.msg} at column {error.colno})") from error
    except (RecursionError, ValueError) as error:  # thousands of brackets, a number of thousands of digits
        raise ValueError("not_json", f"is not JSON that can be read ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("not_an_object", f"is a {type(row).__name__}, not a JSON object")
    return row


def read_jsonl(path: Path, remedy: str) -> list[dict]:
    """All rows of a file with one JSON object a line. Raises as `iterate_jsonl` does."""
    return list(iterate_jsonl(path, remedy))


def iterate_jsonl(path: Path, remedy: str) -> Iterator[dict]:
    """Parse a file with one JSON object a line, which this project wrote, row by row; blank lines are skipped.

    Raises:
        MissingInputError: the file is not there.
        MalformedInputError: a line is not a JSON object, or not UTF-8; the message names file:line.
    """
    for number, line in numbered_lines(require(path, remedy)):
        try:
            yield parse_object(line)
        except ValueError as error:
            raise MalformedInputError(f"{path}:{number} {error.args[1]}. {remedy}") from error


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Names of the files that are missing, or whose sha256 is not the one in `hashes`, which has it by path below `folder`."""
    return [
        name for name, digest in hashes.items() if not (folder / name).is_file() or sha256_file(folder / name) != digest
    ]


def hash_paths(paths: list[Path]) -> dict[str, str]:
    """Map every file at or below `paths` to its sha256, sorted by path (the form of a stage record's inputs/outputs)."""
    files = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    return {file.as_posix(): sha256_file(file) for file in sorted(files)}
