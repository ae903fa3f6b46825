"""The run's files are read completely, and one that is missing or malformed is named."""

import pytest

from lorabundle.core.errors import MalformedInputError, MissingInputError
from lorabundle.reporting.run_files import RECORDED, input_paths, load_results
from tests import fake_run


def test_every_file_is_read(smoke):
    fake_run.write_run(smoke, fake_run.run_files())
    assert load_results(smoke) == fake_run.results()
    assert {path.relative_to(smoke.run_dir).as_posix() for path in input_paths(smoke)} == set(fake_run.run_files())


def test_records_are_of_the_stages_before_the_report():
    assert RECORDED == ("fetch", "preprocess", "train", "evaluate", "sample")


def test_missing_file_is_named(smoke):
    fake_run.write_run(smoke, fake_run.run_files())
    (smoke.run_dir / "samples.jsonl").unlink()
    with pytest.raises(
        MissingInputError, match=r"samples\.jsonl does not exist\. Run `make all CONFIG=\.\.\.` for run smoke"
    ):
        load_results(smoke)


def test_a_value_knows_its_file_and_line(smoke):
    fake_run.write_run(smoke, fake_run.run_files())
    with pytest.raises(MalformedInputError, match=r"examples\.jsonl:2 has no nonsense"):
        load_results(smoke).examples[1]["nonsense"]
