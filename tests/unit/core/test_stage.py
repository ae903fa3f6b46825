"""What every stage command promises: exit codes, one paragraph on stderr, a record written last."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lorabundle.core import stage
from lorabundle.core.errors import DivergenceError, MissingInputError
from tests.conftest import ROOT

ARGUMENTS = ["--config", "config/smoke.yaml"]


@pytest.fixture(autouse=True)
def _restore_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_record_is_written_last_and_hashes_what_was_read_and_written(smoke, monkeypatch):
    monkeypatch.setenv("LORABUNDLE_COMMIT", "0123abc")

    def run(config):
        Path("input").write_text("in")
        Path("output").write_text("out")
        assert not config.record_path("demo").exists()
        return stage.Artifacts(inputs=[Path("input")], outputs=[Path("output")])

    run.__module__ = __name__
    assert stage.run_stage("demo", run, ARGUMENTS) == 0
    record = json.loads(smoke.record_path("demo").read_text())
    assert record["command"] == ["python", "-m", "lorabundle.demo", "--config", "config/smoke.yaml"]
    assert list(record["inputs"]) == ["input"]
    assert len(record["outputs"]["output"]) == 64
    assert record["seconds"] >= 0
    started, ended = (datetime.fromisoformat(record[key]) for key in ("started_at", "ended_at"))
    assert started <= ended <= datetime.now(UTC)
    assert abs((ended - started).total_seconds() - record["seconds"]) <= 1.1  # times are in whole seconds
    assert record["started_at"].endswith("+00:00")
    assert record["commit"] == "0123abc"
    assert record["peak_rss_bytes"] > 1e6


def failing(error: BaseException):
    def run(config):
        raise error

    run.__module__ = __name__
    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MissingInputError("x.json does not exist. Run `make data` first."), 2, "x.json does not exist"),
        (DivergenceError("loss is nan at step 3."), 1, "loss is nan at step 3."),
        (
            OSError(28, "No space left on device", "outputs/x"),
            1,
            "No space left on device: 'outputs/x'. Check the free space",
        ),
        (KeyError("surprise"), 1, "This is a bug in lorabundle"),
        (KeyboardInterrupt("SIGTERM"), 1, "Stopped by SIGTERM. Results of earlier stages"),
    ],
)
def test_failure_is_one_paragraph_and_an_exit_code(smoke, capsys, error, code, text):
    assert stage.run_stage("demo", failing(error), ARGUMENTS) == code
    err = capsys.readouterr().err
    assert err.startswith("demo: error: ")
    assert text in err
    assert err.count("\n") == 1
    assert not smoke.record_path("demo").exists()
    assert "Traceback" in (smoke.run_dir / "logs" / "demo.log").read_text()


def test_debug_shows_the_traceback(smoke):
    with pytest.raises(DivergenceError):
        stage.run_stage("demo", failing(DivergenceError("nan")), [*ARGUMENTS, "--debug"])


def test_failed_rerun_removes_the_record_but_no_result(smoke):
    def run(config):
        Path("result").write_text("good")
        return stage.Artifacts(inputs=[], outputs=[Path("result")])

    run.__module__ = __name__
    stage.run_stage("demo", run, ARGUMENTS)
    stage.run_stage("demo", failing(DivergenceError("nan")), ARGUMENTS)
    assert not smoke.record_path("demo").exists()
    assert Path("result").read_text() == "good"


def test_bad_config_touches_nothing(smoke, capsys):
    assert stage.run_stage("demo", failing(AssertionError()), [*ARGUMENTS, "--set", "lora.r=0"]) == 2
    assert "lora.r" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_unwritable_output(smoke, capsys):
    Path("outputs").write_text("a file where a folder should be")
    assert stage.run_stage("demo", failing(AssertionError()), ARGUMENTS) == 1
    assert "Cannot write outputs/smoke" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_stage_with_a_paragraph(workspace, number):
    """A real process, stopped by a real signal."""
    code = (
        "import os, signal, sys, time\n"
        "from lorabundle.core import stage\n"
        f"def run(config): os.kill(os.getpid(), {int(number)}); time.sleep(30)\n"
        f"sys.exit(stage.run_stage('demo', run, {ARGUMENTS!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert finished.returncode == 1
    assert finished.stderr == (
        f"demo: error: Stopped by {number.name}. Results of earlier stages and the last complete checkpoint are intact; "
        "run the same command to go on.\n"
    )


def test_help_is_the_modules_docstring(workspace):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "lorabundle.archive", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "the same inputs give the same bytes" in text
    assert "--config" in text
