"""What `make inspect` prints, on the tiny model."""

import json
import os
import pty
import subprocess
import sys

import pytest

from lorabundle import fetch, inspect
from lorabundle.data.preview import Segment
from tests.conftest import ROOT, TINY, WORDS


@pytest.fixture
def inspected(tiny_config, tiny_project, capsys):
    """Inspects rows, and returns (exit code, what was printed)."""
    fetch.run(tiny_config())

    def run(rows: list[dict], *overrides: str) -> tuple[int, str]:
        (tiny_project / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = inspect.main(["--config", "config/smoke.yaml", "--set", *TINY, *overrides])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"{WORDS[n % 9]} {n}", "completion": WORDS[n % 8], "url": "u"} for n in range(count)]


def test_what_is_printed(inspected, tiny_project):
    before = {path for path in tiny_project.rglob("*") if ".probe" not in path.name}
    code, printed = inspected(pairs(60))
    assert code == 0
    for text in (
        "data.jsonl: one JSON value a line, UTF-8",
        "shape prompt/completion: 60 of 60 rows have every column that it needs",
        "prompt      prompt",
        "not used    url (60 rows have a value)",
        "[[",
        "<|im_end|>]]",
        "response         2       2       2       2",
        "cut at data.max_length (96): 0 of",
        "read        60",
        "train       ",
        "cut by groups of similar rows",
        "warning     The test split has only",
        "4 steps, ",
        "make all` instead of `make inspect`",
    ):
        assert text in printed, text
    assert {path for path in tiny_project.rglob("*") if ".probe" not in path.name} == before  # it writes nothing


def test_rows_that_would_stop_a_run_are_shown_and_give_its_exit_code(inspected):
    rows = [*pairs(60), {"prompt": "hello", "completion": None}]
    code, printed = inspected(rows)
    assert code == 2
    assert "not usable  1 (1 null)" in printed
    assert "data.jsonl:61: column completion is null or missing" in printed
    assert "inspect: error: `make all` would stop: 1 of 61 rows cannot be used" in printed
    assert inspected(rows, "data.on_error=quarantine")[0] == 0


def test_columns_that_fit_nothing_end_with_the_suggestion(inspected):
    code, printed = inspected([{"Frage": f"{n}", "Antwort": "x"} for n in range(3)])
    assert code == 2
    assert "inspect: error: data.jsonl has the columns Frage" in printed


def test_texts_cannot_control_the_terminal():
    assert inspect.marked([Segment("a\x1b[2J\u202e\n", False), Segment("b\x07", True)], ("[[", "]]")) == (
        "a\\u001b[2J\\u202e\n[[b\\u0007]]"
    )


def test_colours_on_a_terminal_only(inspected, tiny_project):
    inspected(pairs(60))  # leaves the file
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "lorabundle.inspect", "--config", "config/smoke.yaml", "--set", *TINY]
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {
        "PYTHONPATH": str(ROOT / "src")
    }
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL, cwd=tiny_project, env=environment)
    os.close(writer)
    printed = b""
    while True:
        try:
            printed += os.read(reader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
    assert process.wait() == 0
    assert b"\033[30;42m" in printed
    assert b"what is learnt is in colour" in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "5 seconds"), (42, "40 seconds"), (89, "90 seconds"), (540, "9 minutes"), (9000, "2.5 hours")],
)
def test_durations(seconds, words):
    assert inspect.duration(seconds) == words
