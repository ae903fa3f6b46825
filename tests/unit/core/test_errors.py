"""Every exception class has a test that raises it."""

import pytest

from lorabundle.core import errors
from lorabundle.core.command import explain
from lorabundle.core.errors import InterruptedStageError, LorabundleError, MemoryExhaustedError
from tests.conftest import ROOT


def test_every_exception_class_is_raised_in_a_test():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and value is not LorabundleError}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in classes if f"pytest.raises({name}" not in tests} == {"InterruptedStageError"}


def test_interruption_says_how_to_go_on():
    error = explain(KeyboardInterrupt("SIGTERM"))
    assert isinstance(error, InterruptedStageError)
    assert "run the same command to go on" in str(error)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_lack_of_memory_says_what_to_lower(error):
    explained = explain(error)
    assert isinstance(explained, MemoryExhaustedError)
    assert "Lower train.max_tokens" in str(explained)


def test_exit_codes_are_the_documented_ones():
    at_fault = {c.__name__ for c in LorabundleError.__subclasses__() if c.exit_code == 2}
    assert at_fault == {
        "ConfigError",
        "MissingInputError",
        "MalformedInputError",
        "ColumnError",
        "RowError",
        "EmptySplitError",
        "NoSupervisedTokensError",
        "TemplateError",
        "HashMismatchError",
        "ModelFormatError",
    }
    assert {c.exit_code for c in LorabundleError.__subclasses__()} == {1, 2, 3}
