"""Rows on disk, and what is said about rows that the model or the splits cannot show."""

import json

import pytest

from lorabundle import fetch
from lorabundle.data.encoding import encode_rows
from lorabundle.data.notes import Notes
from lorabundle.data.pipeline import FEATURES, cut, on_disk, prepare
from lorabundle.data.quarantine import Quarantine
from lorabundle.model.architecture import load_tokenizer
from lorabundle.model.prompts import IGNORE_INDEX
from tests.conftest import WORDS, ask
from tests.unit.data.test_encoding import COLUMNS, pairs


@pytest.fixture
def encoded(tokenizer, tmp_path) -> list[dict]:
    records = pairs(ask("hello", "there"), ask("hello", "there general what is it"))
    return list(encode_rows(records, tokenizer, 64, Quarantine(tmp_path / "q.jsonl", "stop"), COLUMNS, Notes()))


def test_long_rows_are_cut(encoded):
    assert [len(row["input_ids"]) for row in encoded] == [11, 15]
    rows = list(cut(encoded, max_length=11))
    assert [len(row["input_ids"]) for row in rows] == [11, 11]
    assert rows[1]["labels"] == [IGNORE_INDEX] * 9 + [8, 9]


def test_equal_rows_have_equal_bytes_on_disk(tmp_path, encoded):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        rows = on_disk(encoded, folder / "rows.arrow", FEATURES)
        assert list(rows) == encoded
        rows.save_to_disk(folder / "saved")
    for name in ("data-00000-of-00001.arrow", "state.json"):
        assert (tmp_path / "a/saved" / name).read_bytes() == (tmp_path / "b/saved" / name).read_bytes()


@pytest.fixture
def prepared(tiny_config, tmp_path):
    """Prepares rows with the tiny model, of 128 positions."""
    fetch.run(tiny_config())

    def run(rows: list[dict], *overrides: str):
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = tiny_config(*overrides)
        quarantine = Quarantine(tmp_path / "q.jsonl", "stop")
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return prepare(config, load_tokenizer(config.model_dir), quarantine, tmp_path / "scratch")

    return run


def some(count: int) -> list[dict]:
    return [{"prompt": f"{WORDS[n % 9]} {n}", "completion": WORDS[n % 8]} for n in range(count)]


def test_texts_beyond_the_models_positions_are_a_warning_with_both_numbers(prepared):
    rows = [*some(200), {"prompt": "a", "completion": "it " * 200}]
    found = prepared(rows, "data.max_length=180", "data.max_train_examples=500", "data.max_test_examples=500")
    above, longer = found.warnings[:2]
    assert "data.max_length is 180, but the model was made for 128 positions" in above
    assert "1 of" in longer
    assert "the longest has 210 tokens, and data.max_length keeps 180" in longer
    assert not prepared(some(200), "data.max_length=128", "data.max_test_examples=500").warnings


def test_few_test_groups_are_a_warning(prepared):
    found = prepared(some(60), "data.max_test_examples=500")
    num_groups = len(found.splits["test"])
    assert 0 < num_groups < 30
    assert found.warnings == [warning for warning in found.warnings if f"only {num_groups} group" in warning]


def test_turns_that_are_not_learnt_are_kept_through_the_files(prepared):
    flagged = {"role": "assistant", "content": "it", "weight": 0}
    rest = [flagged, {"role": "user", "content": "is"}, {"role": "assistant", "content": "there"}]
    rows = [{"messages": [{"role": "user", "content": f"what {n}"}, *rest]} for n in range(60)]
    found = prepared(rows)
    row = found.splits["train"][0]
    assert json.loads(row["completion"][0]["extra"]) == {"train": False}
    assert [label for label in row["labels"] if label != IGNORE_INDEX] == [8, 1]
    assert "extra" not in prepared(some(60)).splits["train"][0]["prompt"][0]
