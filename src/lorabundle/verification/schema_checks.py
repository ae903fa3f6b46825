"""Checks of the run's files as files: each can be read, has the right schema, and is written as this project writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorabundle.core import config
from lorabundle.core.config_file import dump_yaml
from lorabundle.core.errors import LorabundleError, MalformedInputError
from lorabundle.core.files import read_json, read_jsonl, sha256_bytes, sha256_file, to_json, to_jsonl
from lorabundle.core.locks import RUNTIME_LOCKS, read_lock, runtime_lock
from lorabundle.verification.differences import Difference
from lorabundle.verification.findings import say
from lorabundle.verification.json_schemas import OBJECTS, ROWS
from lorabundle.verification.reading import REMEDY, differences_from_schema, read_config, read_object, read_rows
from lorabundle.verification.unpacked import ADAPTER, Submission


def check_schemas(submission: Submission) -> list[Difference]:
    """All files that the other checks read exist, can be read and have the right schema."""
    run_dir = submission.run_dir
    result = [
        Difference(path.relative_to(submission.folder).as_posix(), "a file", "no such file")
        for path in (run_dir / ADAPTER, submission.listing)
        if not path.is_file()
    ]
    result += _differences("config.yaml", lambda: read_config(submission))
    for lock in (_runtime_lock(run_dir), config.ASSETS_LOCK):
        result += _differences(lock.as_posix(), lambda lock=lock: _read_lock(submission.folder / lock))
    for name, schema in OBJECTS.items():
        result += _differences(name, lambda name=name: read_object(run_dir / name), schema)
    for name, schema in ROWS.items():
        result += _differences(name, lambda name=name: read_rows(run_dir / name), list[schema])
    say(f"report: the schemas of {len(OBJECTS) + len(ROWS)} files")
    return result or _uneven_rows(read_rows(run_dir / "examples.jsonl"))


def _differences(where: str, read: Callable[[], Any], schema: Any = Any) -> list[Difference]:
    """What is wrong with a file: it cannot be read, or has another schema."""
    try:
        value = read()
    except LorabundleError as error:
        return [Difference(where, "a file that can be read", " ".join(str(error).split()))]
    return differences_from_schema(where, schema, value)


def _runtime_lock(run_dir: Path) -> Path:
    """The lock of the machine that trained; x86-64's, if environment.json does not say which that was."""
    try:
        return runtime_lock(read_object(run_dir / "environment.json")["platform"])
    except (LorabundleError, KeyError, TypeError):
        return RUNTIME_LOCKS["x86_64"]


def _read_lock(path: Path) -> dict:
    try:
        return read_lock(path)
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise MalformedInputError(f"{path} cannot be read ({error}). {REMEDY}") from error


def _uneven_rows(examples: list[dict]) -> list[Difference]:
    """Examples without the keys of the first one, of which there must be one: means are taken over all."""
    if not examples:
        return [Difference("examples.jsonl", "at least one example", "none")]
    keys = [_all_keys(example) for example in examples]
    return [
        Difference(f"examples.jsonl.{number}", f"the keys {', '.join(sorted(keys[0]))}", ", ".join(sorted(found)))
        for number, found in enumerate(keys)
        if found != keys[0]
    ]


def _all_keys(example: dict) -> set[str]:
    parts = {key: value for key, value in example.items() if isinstance(value, dict)}
    return {*example, *(f"{key}.{name}" for key, part in parts.items() for name in part)}


def check_written(submission: Submission) -> list[Difference]:
    """JSON and YAML files are written exactly as this project writes them: of a key that occurs twice, two programs may read two values."""
    run_dir = submission.run_dir
    objects = [*run_dir.glob("*.json"), *run_dir.glob("stages/*.json")]
    written = {path: lambda path=path: to_json(read_json(path, REMEDY)) for path in objects}
    written |= {
        path: lambda path=path: "".join(map(to_jsonl, read_jsonl(path, REMEDY))) for path in run_dir.glob("*.jsonl")
    }
    written[run_dir / "config.yaml"] = lambda: dump_yaml(read_config(submission).model_dump())
    result = []
    for path, write in sorted((path, write) for path, write in written.items() if path.is_file()):
        try:
            expected = sha256_bytes(write().encode())
        except (ValueError, RecursionError) as error:  # NaN, text that is not Unicode, deep nesting
            expected = f"JSON that can be written ({error})"
        if expected != sha256_file(path):
            name = path.relative_to(submission.folder).as_posix()
            result.append(Difference(f"{name}, written again", expected, sha256_file(path)))
    say(f"report: {len(written)} files written again")
    return result
