"""What preprocess writes besides the splits."""

from types import SimpleNamespace

from lorabundle import preprocess
from tests.conftest import ask


def test_rows_longer_than_the_limit_are_counted():
    rows = [{"input_ids": [0] * length} for length in (3, 4, 5)]
    assert preprocess.count_truncated({"train": rows, "val": rows[:1], "test": []}, 4) == {
        "train": 1,
        "val": 0,
        "test": 0,
    }


def test_the_first_row_is_shown_with_what_it_learns(tokenizer):
    record = ask("hello", "there " * 600)
    row = record | preprocess.prompts.encode(tokenizer, record["prompt"], record["completion"])
    prepared = SimpleNamespace(splits={"train": [row]})
    before, learnt = preprocess.first_row(prepared, tokenizer, max_length=500)
    assert (before["learnt"], learnt["learnt"]) == (False, True)
    assert "hello" in before["text"]
    assert "characters not shown" in learnt["text"]
    assert len(learnt["text"]) < 900
