"""How a command ends: its exit code, and one paragraph on stderr."""

import os
import subprocess
import sys

import pytest

from lorabundle.core.command import command_parser, explain, run_command
from lorabundle.core.errors import ConfigError, InterruptedStageError, MemoryExhaustedError, OutputError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def signals_as_before():
    """A command sets handlers for its process, which is that of the tests here."""
    import signal

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fail(error: BaseException):
    """Work that ends with an error."""

    def work() -> None:
        raise error

    return work


def test_exit_code_is_what_the_work_returns():
    assert run_command("demo", lambda: None) == 0
    assert run_command("demo", lambda: 3) == 3


def test_failure_is_one_line_on_stderr(capsys):
    assert run_command("demo", fail(ConfigError("Two\n  lines."))) == 2
    assert capsys.readouterr().err == "demo: error: Two lines.\n"


def test_bug_is_called_one_and_says_where_the_traceback_is(capsys):
    assert run_command("demo", fail(KeyError("surprise"))) == 1
    assert "This is a bug in lorabundle, not a problem with your input" in capsys.readouterr().err


def test_debug_raises_with_the_cause():
    with pytest.raises(ConfigError, match="wrong"):
        run_command("demo", fail(ConfigError("wrong")), debug=True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt("SIGTERM"), InterruptedStageError),
        (MemoryError(), MemoryExhaustedError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryExhaustedError),
        (PermissionError(13, "Permission denied"), OutputError),
    ],
)
def test_other_errors_are_explained(error, expected):
    assert isinstance(explain(error), expected)


@pytest.mark.parametrize("command", ["fetch", "train", "verify", "seeds", "resolve_config"])
def test_help_is_the_modules_docstring(command):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    arguments = [sys.executable, "-m", f"lorabundle.{command}", "--help"]
    text = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    source = (ROOT / f"src/lorabundle/{command}.py").read_text()
    assert source[3:].partition("\n")[0] in text
    assert "--debug" in text


def test_parser_names_the_command():
    assert command_parser("demo", "What it does.").prog == "python -m lorabundle.demo"
