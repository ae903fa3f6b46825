"""A wrong file is a difference, a bug is a failed check, and a failing machine is neither."""

import pytest

from lorabundle.core.errors import ConfigError, MalformedInputError, OutputError
from lorabundle.verification.differences import Difference
from lorabundle.verification.findings import LOG, Findings, say


def raising(error: Exception):
    def check() -> list[Difference]:
        raise error

    return check


DIFFERENCE = Difference("a", 1, 2)


def test_what_a_check_returns_is_kept():
    findings = Findings()
    assert findings.run("one", lambda: [])
    assert not findings
    assert not findings.run("two", lambda: [DIFFERENCE])
    assert findings
    assert findings.differences == [DIFFERENCE]


@pytest.mark.parametrize("error", [MalformedInputError("x is\nnot JSON."), ConfigError("no such key.")])
def test_a_file_that_cannot_be_read_is_a_difference(error):
    findings = Findings()
    assert not findings.run("scores", raising(error))
    (difference,) = findings.differences
    assert (difference.where, difference.expected) == ("scores", "files that can be read")
    assert difference.found == f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert findings.failures == {}


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ZeroDivisionError(), RecursionError(), ValueError()])
def test_any_other_exception_is_a_failed_check(error):
    findings = Findings()
    assert not findings.run("scores", raising(error))
    assert findings.differences == []
    assert findings.failures == {"scores": error}
    assert findings


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left"), OutputError("Cannot write x.")])
def test_what_the_machine_lacks_ends_verification(error):
    with pytest.raises(type(error)):
        Findings().run("scores", raising(error))


@pytest.mark.parametrize(
    ("differences", "failures", "is_last", "code", "verdict"),
    [
        ([], {}, True, 0, "VERIFIED: 0 differences (level eval)"),
        ([], {}, False, 0, None),
        ([DIFFERENCE], {}, False, 3, "DIFFERENT: 1 difference (level eval)"),
        ([DIFFERENCE] * 2, {}, True, 3, "DIFFERENT: 2 differences (level eval)"),
        ([], {"x": KeyError("k")}, True, 1, "NOT VERIFIED: 1 of the checks failed, 0 differences (level eval)"),
        ([DIFFERENCE], {"x": KeyError()}, True, 1, "NOT VERIFIED: 1 of the checks failed, 1 difference (level eval)"),
    ],
)
def test_exit_code_and_verdict(workspace, capsys, differences, failures, is_last, code, verdict):
    assert Findings(differences, failures).print("eval", is_last, debug=False) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("[verify] DIFFERENCE a: expected 1, found 2, tolerance none") == len(differences)
    assert lines[-1:] == ([f"[verify] {verdict}"] if verdict else [])
    assert LOG.exists() == bool(failures)


def test_every_traceback_is_logged(workspace, capsys):
    findings = Findings()
    findings.run("one", raising(KeyError("first")))
    findings.run("two", raising(TypeError("second\nline")))
    findings.print("report", is_last=True, debug=True)
    captured = capsys.readouterr()
    assert LOG.read_text().count("Traceback") == captured.err.count("Traceback") == 2
    assert "[verify] CHECK FAILED: two: TypeError: second line (this is a bug in lorabundle" in captured.out


def test_control_codes_of_a_terminal_are_not_printed(capsys):
    say("a\x1b[2Jb")
    assert capsys.readouterr().out == "[verify] a?[2Jb\n"
