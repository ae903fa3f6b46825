"""Splits, duplicates, truncation: what keeps test data out of training."""

from hashlib import sha256

import pytest

from lorabundle import preprocess
from lorabundle.core.config import Data
from lorabundle.core.errors import EmptySplitError, NoSupervisedTokensError, TemplateError
from lorabundle.data.file_formats import Row
from lorabundle.data.quarantine import Quarantine
from lorabundle.model.prompts import IGNORE_INDEX
from tests.conftest import ask


def settings(**changes) -> Data:
    values = {
        "source": "x.jsonl",
        "on_error": "stop",
        "near_duplicate_threshold": 0.8,
        "max_length": 64,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "max_train_examples": 1000,
        "max_val_examples": 1000,
        "max_test_examples": 1000,
    }
    return Data(**(values | changes))


def many(count: int, per_group: int = 3) -> list[dict]:
    return [ask(f"question {n}", "answer", group=f"group {n // per_group}") for n in range(count)]


def split(records: list[dict], settings: Data) -> dict[str, list[dict]]:
    groups = {index: record["group"] for index, record in enumerate(records)}
    assigned = preprocess.assign_splits([record["id"] for record in records], groups, settings)
    return {name: [records[index] for index in indices] for name, indices in assigned.items()}


def test_no_group_is_in_two_splits():
    splits = split(many(600), settings())
    groups = [{record["group"] for record in rows} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 200
    assert sum(map(len, splits.values())) == 600


def test_split_sizes_follow_the_fractions():
    splits = split(many(3000, per_group=1), settings(val_fraction=0.1, test_fraction=0.3))
    assert len(splits["val"]) == pytest.approx(300, abs=50)
    assert len(splits["test"]) == pytest.approx(900, abs=80)


def test_adding_data_moves_nothing_between_splits():
    few = split(many(300), settings())
    more = split(many(600), settings())
    for name, rows in few.items():
        assert {row["id"] for row in rows} <= {row["id"] for row in more[name]}


def test_order_of_the_input_does_not_matter():
    assert split(many(300), settings()) == split(many(300)[::-1], settings())


def test_limits_are_applied_per_split():
    splits = split(many(300), settings(max_train_examples=7, max_val_examples=5, max_test_examples=3))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7, "val": 5, "test": 3}


def test_dropped_rows_are_in_no_split():
    records = many(300)
    groups = {index: record["group"] for index, record in enumerate(records) if index % 2}
    assigned = preprocess.assign_splits([record["id"] for record in records], groups, settings())
    assert sorted(index for indices in assigned.values() for index in indices) == list(range(1, 300, 2))


def test_limited_split_keeps_the_rows_with_the_smallest_hashes():
    """Not the first of the file, which may be sorted."""
    records = many(300)
    everything = split(records, settings())
    limited = split(records, settings(max_train_examples=5))["train"]
    by_hash = sorted(everything["train"], key=lambda record: sha256(record["id"].encode()).digest())
    assert limited == by_hash[:5]
    assert limited != [record for record in records if record in everything["train"]][:5]


def test_empty_split():
    with pytest.raises(EmptySplitError, match="split is empty: 1 records in 1 groups"):
        split(many(1), settings())


def pairs(*records: dict) -> list[tuple[Row, dict]]:
    return [(Row(f"d.jsonl:{number}", record["id"], record), record) for number, record in enumerate(records, start=1)]


COLUMNS = {"prompt": "instruction", "completion": "output"}


def test_long_rows_are_cut(tokenizer, tmp_path):
    long = ask("hello", "there general what is it")
    quarantine = Quarantine(tmp_path / "q.jsonl", "stop")
    encoded = list(preprocess.encode_rows(pairs(ask("hello", "there"), long), tokenizer, 11, quarantine, COLUMNS))
    assert [len(row["input_ids"]) for row in encoded] == [11, 15]
    rows = list(preprocess.cut(encoded, max_length=11))
    assert [len(row["input_ids"]) for row in rows] == [11, 11]
    assert rows[1]["labels"] == [IGNORE_INDEX] * 9 + [8, 9]


def test_prompt_that_fills_the_limit_is_an_error(tokenizer, tmp_path):
    """Training on rows without labels "succeeds" with a loss of 0."""
    quarantine = Quarantine(tmp_path / "q.jsonl", "stop")
    assert list(preprocess.encode_rows(pairs(ask("hello", "there")), tokenizer, 9, quarantine, COLUMNS)) == []
    message = r"d\.jsonl:1: column instruction leaves no room for an answer: it has 9 tokens and data\.max_length is 9"
    with pytest.raises(NoSupervisedTokensError, match=message):
        quarantine.close(2)


@pytest.mark.parametrize(
    ("question", "answer", "column"), [("<|im_end|>", "a", "instruction"), ("a", "<|im_end|>", "output")]
)
def test_control_token_is_a_row_problem(tokenizer, tmp_path, question, answer, column):
    quarantine = Quarantine(tmp_path / "q.jsonl", "quarantine")
    encoded = preprocess.encode_rows(
        pairs(ask(question, answer), ask("hello", "there")), tokenizer, 64, quarantine, COLUMNS
    )
    assert [row["id"] for row in encoded] == ["hello"]
    assert quarantine.rows[0]["column"] == column
    assert quarantine.close(2)["causes"] == {"control_token": 1}


def test_template_at_fault_is_not_a_row_problem(tokenizer, tmp_path):
    tokenizer.chat_template = None
    quarantine = Quarantine(tmp_path / "q.jsonl", "quarantine")
    with pytest.raises(TemplateError, match="no chat template"):
        next(preprocess.encode_rows(pairs(ask("a", "b")), tokenizer, 64, quarantine, COLUMNS))


def test_equal_rows_have_equal_bytes_on_disk(tmp_path, tokenizer):
    quarantine = Quarantine(tmp_path / "q.jsonl", "stop")
    records = pairs(ask("hello", "there"), ask("what", "is it"))
    encoded = list(preprocess.encode_rows(records, tokenizer, 64, quarantine, COLUMNS))
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        rows = preprocess.on_disk(encoded, folder / "rows.arrow")
        assert list(rows) == encoded
        rows.save_to_disk(folder / "saved")
    for name in ("data-00000-of-00001.arrow", "state.json"):
        assert (tmp_path / "a/saved" / name).read_bytes() == (tmp_path / "b/saved" / name).read_bytes()


def test_warning_names_similar_rows_in_different_splits(caplog):
    pair = {
        "column": "completion",
        "similarity": 1.0,
        "a": {"id": "x", "split": "train"},
        "b": {"id": "y", "split": "test"},
    }
    across = {"prompt": {"exact": 0, "near": 0}, "completion": {"exact": 2, "near": 1}}
    preprocess.warn_of_similar_rows(across, [pair])
    assert (
        "0 equal and 0 near in prompt, 2 equal and 1 near in completion; for example x (train) and y (test);"
        in caplog.text
    )
