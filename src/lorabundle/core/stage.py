"""What every stage shares: arguments, log, exit code, and the record written last.

A stage module defines `run(config) -> Artifacts` and ends with `sys.exit(run_stage("<name>", run))`.
"""

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from lorabundle.core.command import command_parser, run_command
from lorabundle.core.config import Config
from lorabundle.core.config_file import add_arguments, load_config, write_resolved
from lorabundle.core.files import hash_paths, writable, write_json

log = logging.getLogger("lorabundle")

# The flow, in order. Each name is a command of the package, a record (stages/<name>.json) and a log (logs/<name>.log).
STAGES = ("fetch", "preprocess", "train", "evaluate", "sample", "report", "archive")


@dataclass(frozen=True)
class Artifacts:
    """The files and folders that a stage read and wrote."""

    inputs: list[Path]
    outputs: list[Path]


def peak_rss_bytes() -> int:
    """Largest resident set of this process or of any finished child, in bytes."""
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage) * 1024  # Linux counts in KiB


def utc(seconds: float) -> str:
    """A time since the epoch as ISO 8601 in UTC, in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _open_log(name: str, path: Path, keep: bool) -> None:
    """Send the package's log to the console and to `path`; libraries' warnings go only to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="a" if keep else "w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter(f"[{name}] %(message)s"))
    console.addFilter(lambda entry: entry.name.startswith("lorabundle") and entry.exc_info is None)
    logging.basicConfig(level=logging.INFO, handlers=[file, console], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def run_stage(name: str, run: Callable[[Config], Artifacts], argv: list[str] | None = None) -> int:
    """Run one stage as a command: log to `outputs/<run>/logs/<name>.log`, and write the stage's record last.

    Returns the exit code: 0 done, 1 the run failed, 2 bad config or input (see `command.run_command`).
    """
    parser = command_parser(name, sys.modules[run.__module__].__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)

    def work() -> None:
        config = load_config(arguments.config, arguments.set)
        record = config.record_path(name)
        with writable(config.run_dir):
            _open_log(name, config.run_dir / "logs" / f"{name}.log", keep=not record.exists())
            record.unlink(missing_ok=True)
        write_resolved(config)
        files = run(config)
        command = ["python", "-m", f"lorabundle.{name}", "--config", str(arguments.config)]
        command += ["--set", *arguments.set] if arguments.set else []
        content = _record(name, command, files)
        write_json(record, content)
        log.info("done in %.1f s, peak memory %.2f GB", content["seconds"], content["peak_rss_bytes"] / 1e9)

    return run_command(name, work, arguments.debug)


def _record(name: str, command: list[str], files: Artifacts) -> dict:
    """What a stage's record says."""
    inputs, outputs = hash_paths(files.inputs), hash_paths(files.outputs)
    started, ended = psutil.Process().create_time(), time.time()
    return {
        "schema": 1,
        "stage": name,
        "commit": os.environ.get("LORABUNDLE_COMMIT", "unknown"),  # docker/run.sh knows it
        "command": command,
        "inputs": inputs,
        "outputs": outputs,
        "started_at": utc(started),
        "ended_at": utc(ended),
        "seconds": round(ended - started, 1),
        "peak_rss_bytes": peak_rss_bytes(),
    }
