"""What every stage shares: arguments, log, exit code, and the record written last.

A stage module defines `run(config) -> Artifacts` and ends with `sys.exit(run_stage("<name>", run))`.
"""

import argparse
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil

from lorabundle.core.config import Config
from lorabundle.core.config_file import add_arguments, load_config, write_resolved
from lorabundle.core.errors import InterruptedStageError, LorabundleError, MemoryExhaustedError, OutputError
from lorabundle.core.files import hash_paths, writable, write_json

log = logging.getLogger("lorabundle")

# The flow, in order. Each name is a module here, a make target's record and a log file.
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
    """Send the package's log to the console and to `path`; libraries' warnings go to the file alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="a" if keep else "w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter(f"[{name}] %(message)s"))
    console.addFilter(lambda entry: entry.name.startswith("lorabundle") and entry.exc_info is None)
    logging.basicConfig(level=logging.INFO, handlers=[file, console], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(signum).name)  # not an Exception, so that no library swallows it


def _explain(error: BaseException, name: str) -> LorabundleError:
    """The error to show for whatever ended a stage: one paragraph with a remedy."""
    if isinstance(error, LorabundleError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedStageError(
            f"Stopped by {error or 'SIGINT'}. Results of earlier stages and the last complete checkpoint are intact; "
            f"run the same command to go on."
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return MemoryExhaustedError(
            "There is not enough memory. Lower train.max_tokens (which keeps the result), evaluate.batch_size or "
            "data.max_length, or set train.gradient_checkpointing: true; then run the same command again."
        )
    if isinstance(error, OSError):
        return OutputError(
            f"The operating system refused a file operation: {error}. Check the free space (`df -h .`) and the "
            f"permissions of the path it names, then run the same command again."
        )
    return LorabundleError(
        f"Unexpected {type(error).__name__}: {error}. This is a defect of lorabundle, not of your input; the traceback "
        f"is at the end of outputs/<run>/logs/{name}.log, and --debug prints it."
    )


def run_stage(name: str, run: Callable[[Config], Artifacts], argv: list[str] | None = None) -> int:
    """Run one stage as a command.

    Returns the exit code: 0 done, 1 the run failed, 2 bad config or input. A failure prints one paragraph on stderr
    and no traceback (it is in the log; `--debug` prints it).
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m lorabundle.{name}",
        description=sys.modules[run.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="on failure, print the traceback too")
    arguments = parser.parse_args(argv)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _interrupt)
    try:
        config = load_config(arguments.config, arguments.set)
        record = config.record_path(name)
        with writable(config.run_dir):
            _open_log(name, config.run_dir / "logs" / f"{name}.log", keep=not record.exists())
            record.unlink(missing_ok=True)
        write_resolved(config)
        files = run(config)
        inputs, outputs = hash_paths(files.inputs), hash_paths(files.outputs)
        started, ended = psutil.Process().create_time(), time.time()
        content = {
            "schema": 1,
            "stage": name,
            "commit": os.environ.get("LORABUNDLE_COMMIT", "unknown"),  # docker/run.sh knows it
            "command": ["python", "-m", f"lorabundle.{name}", "--config", str(arguments.config)]
            + (["--set", *arguments.set] if arguments.set else []),
            "inputs": inputs,
            "outputs": outputs,
            "started_at": utc(started),
            "ended_at": utc(ended),
            "seconds": round(ended - started, 1),
            "peak_rss_bytes": peak_rss_bytes(),
        }
        write_json(record, content)
        log.info("done in %.1f s, peak memory %.2f GB", content["seconds"], content["peak_rss_bytes"] / 1e9)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        failure = _explain(error, name)
        if logging.getLogger().handlers:
            log.error("failed", exc_info=error)
        if arguments.debug:
            raise failure from error
        print(f"{name}: error: {' '.join(str(failure).split())}", file=sys.stderr)
        return failure.exit_code
