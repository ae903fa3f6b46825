"""The sample stage picks from the evaluated examples."""

import pytest

from lorabundle import sample
from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import read_jsonl, write_jsonl
from tests.fake_run import examples


def test_samples_are_picked_from_the_examples(smoke):
    """Smoke shows two of each: of four examples three improve (by 1.0, 0.8 and 0.7 nats a token) and one worsens."""
    source, target = smoke.run_dir / "examples.jsonl", smoke.run_dir / "samples.jsonl"
    write_jsonl(source, examples())
    files = sample.run(smoke)
    picked = [(row["picked"], row["id"]) for row in read_jsonl(target, "")]
    gains = [("largest gain", "e1"), ("largest gain", "e2")]
    assert picked == [("first", "e1"), ("first", "e2"), *gains, ("largest loss", "e4")]
    assert (files.inputs, files.outputs) == ([source], [target])


def test_without_examples_it_says_what_to_run(smoke):
    with pytest.raises(MissingInputError, match="Run `make eval` first"):
        sample.run(smoke)
