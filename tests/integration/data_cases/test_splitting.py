"""Splits of one's own, rows that are alike, and rows that the model cannot take."""

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict

from lorabundle.core.errors import EmptySplitError, TemplateError
from tests.conftest import ROOT
from tests.integration.data_cases.conftest import (
    ANIMALS,
    MODEL,
    Case,
    answer,
    chat,
    jsonl,
    pairs,
    question,
    table,
    texts,
)

# --- Splits of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Train", "Test"), ("training", "TEST"), ("train", "validation"), ("train", "dev")]
)
def test_a_split_column_is_kept(case, names):
    rows = [row | {"split": names[n % 5 == 0]} for n, row in enumerate(pairs(count=100))]
    case.learns(jsonl(rows))
    held_out = "test" if names[1].lower() == "test" else "val"
    assert texts(case.split(held_out)) == {(question(n), answer(n)) for n in range(0, 100, 5)}
    assert sum(len(case.split(name)) for name in ("train", "val", "test")) == 100


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".jsonl.gz"])
def test_a_folder_with_train_and_test_files_keeps_them(case, suffix):
    rows = pairs(count=100)
    for name, part in (("train", rows[:80]), ("test", rows[80:])):
        content = (table(part) if ".csv" in suffix else jsonl(part)).encode()
        case.write(f"mine/{name}{suffix}", gzip.compress(content) if suffix.endswith("gz") else content)
    manifest = case.preprocess("mine")
    assert texts(case.split("test")) == {(question(n), answer(n)) for n in range(80, 100)}
    assert manifest["splits"]["train"]["examples"] + manifest["splits"]["val"]["examples"] == 80


def test_files_of_splits_are_named_in_the_config(case):
    rows = pairs(count=100)
    case.write("a.csv", table(rows[:70]))
    case.write("b.csv", table(rows[70:85]))
    case.write("c.csv", table(rows[85:]))
    case.preprocess(None, "data.splits={train: a.csv, val: b.csv, test: c.csv}")
    assert [len(case.split(name)) for name in ("train", "val", "test")] == [70, 15, 15]


def test_rows_in_two_splits_leave_train_and_are_reported(case):
    rows = pairs(count=100)
    case.write("mine/train.jsonl", jsonl(rows[:80] + rows[90:96]))
    case.write("mine/test.jsonl", jsonl(rows[80:]))
    manifest = case.preprocess("mine")
    assert len(case.split("test")) == 20
    assert texts(case.split("train")).isdisjoint(texts(case.split("test")))
    assert any("6 of 86 training rows" in warning and "test" in warning for warning in manifest["warnings"])


def test_a_saved_dataset_dict_is_read_with_its_splits(case):
    rows = pairs(count=100)
    DatasetDict({"train": Dataset.from_list(rows[:80]), "test": Dataset.from_list(rows[80:])}).save_to_disk("saved")
    case.preprocess("saved")
    assert texts(case.split("test")) == {(question(n), answer(n)) for n in range(80, 100)}


# --- What most rows share ---------------------------------------------------------------------------------------------

INSTRUCTION = (
    "You sort messages that customers send to a shop for garden tools. Read the message below with care, think about what the "
    "customer wants most, and answer with exactly one of these labels: refund, delivery, broken, praise, question, other. Do not "
    "explain your choice, do not add any other word, and do not write a full stop after the label. If two labels fit, take the "
    "one that stands first in the list. Here is the message: "
)
LABELS = ["refund", "delivery", "broken", "praise", "question", "other"]
THINGS = ["spade", "rake", "hose", "pump", "barrow", "shears", "fork", "hoe"]


@pytest.mark.parametrize("position", ["before", "after", "system"])
def test_messages_behind_one_long_instruction_are_different_rows(case, position):
    rows = []
    for n in range(240):
        message = (
            f"My {THINGS[n % 8]} number {n} came on day {n * 7 % 365} with {n % 11} {ANIMALS[n // 8 % 8]} stickers."
        )
        text = {"before": INSTRUCTION + message, "after": f"{message} {INSTRUCTION}", "system": message}[position]
        rows.append(
            {"prompt": text, "completion": LABELS[n % 6]} | ({"system": INSTRUCTION} if position == "system" else {})
        )
    manifest = case.preprocess(case.write("labels.jsonl", jsonl(rows)))
    assert sum(split["examples"] for split in manifest["splits"].values()) == 240
    assert sum(split["groups"] for split in manifest["splits"].values()) > 230


def test_chats_that_open_alike_are_different_groups(case):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi! How can I help?"},
                *chat(n),
            ]
        }
        for n in range(60)
    ]
    manifest = case.preprocess(case.write("turns.jsonl", jsonl(rows)))
    assert sum(split["groups"] for split in manifest["splits"].values()) == 60


def test_an_empty_split_says_what_became_of_the_rows(case):
    rows = [
        {"prompt": "Say something.", "completion": f"Something {'very ' * (n % 2)}good is coming to all of us here."}
        for n in range(40)
    ]
    message = case.refused(jsonl(rows), error=EmptySplitError)
    assert "40 rows" in message
    assert "duplicate" in message


# --- The model --------------------------------------------------------------------------------------------------------


def other_template(case: Case, template: str) -> None:
    """Give the project a copy of the model with another chat template."""
    (case.folder / "data/models").unlink()
    folder = case.folder / MODEL
    folder.mkdir(parents=True)
    for file in (ROOT / MODEL).iterdir():
        (folder / file.name).symlink_to(file)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    settings = json.loads((ROOT / MODEL / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
START = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def test_a_template_that_drops_the_system_message_is_refused(case):
    skipped = "{% for m in messages %}{% if m['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}" + START
    other_template(case, skipped)
    rows = [row | {"system": f"You are clerk {n}."} for n, row in enumerate(pairs())]
    message = case.refused(jsonl(rows), error=TemplateError)
    assert "system" in message
    assert "template" in message
    assert len(case.learns(jsonl(pairs()))) == 40  # without system messages it is a good template
    columns = "data.columns={prompt: prompt, completion: completion, system: null}"
    assert len(case.learns(jsonl(rows), "mine.jsonl", columns)) == 40


def test_rows_longer_than_the_model_are_a_warning_with_both_numbers(case):
    rows = [*pairs(), {"prompt": question(99), "completion": "word " * 12000}]
    manifest = case.preprocess(case.write("mine.jsonl", jsonl(rows)), "data.max_length=16000")
    text = " ".join(manifest["warnings"])
    assert "16,000" in text
    assert "8,192" in text


def test_a_small_test_split_is_a_warning(case):
    manifest = case.preprocess(case.write("mine.jsonl", jsonl(pairs())))
    assert any("test split" in warning and "30" in warning for warning in manifest["warnings"])
