"""What every command shares: help from its docstring, one paragraph for a failure, and an exit code."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from lorabundle.core.errors import InterruptedStageError, LorabundleError, MemoryExhaustedError, OutputError

log = logging.getLogger("lorabundle")


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for `python -m lorabundle.<name>`, whose help is the module's docstring; it has `--debug`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lorabundle.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="on failure, print the traceback too")
    return parser


def run_command(name: str, work: Callable[[], int | None], debug: bool = False) -> int:
    """Do the work of a command and return its exit code: what `work` returns (None is 0), or that of the error.

    A failure prints one paragraph on stderr. Its traceback goes to the log, if the command has one, and with `debug` to stderr.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _interrupt)
    try:
        return work() or 0
    except (Exception, KeyboardInterrupt) as error:
        failure = explain(error)
        if _log_file():
            log.error("failed", exc_info=error)
        if debug:
            raise failure from error
        print(f"{name}: error: {' '.join(str(failure).split())}", file=sys.stderr)
        return failure.exit_code


def explain(error: BaseException) -> LorabundleError:
    """The error to show for whatever ended a command: one paragraph that says what to do."""
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
    where = f"is at the end of {_log_file()}, and --debug prints it" if _log_file() else "is printed with --debug"
    return LorabundleError(
        f"Unexpected {type(error).__name__}: {error}. This is a bug in lorabundle, not a problem with your input; the traceback "
        f"{where}."
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(signum).name)  # not an Exception, so that no library catches it


def _log_file() -> str | None:
    """The file that the package's log goes to, if it goes to one."""
    return next((h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)), None)
