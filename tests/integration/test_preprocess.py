"""The preprocess stage on a user's own files: bad rows, many turns, and what the manifest says."""

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from lorabundle import fetch, preprocess
from lorabundle.core.errors import RowError
from tests.conftest import WORDS
from tests.unit.data.test_file_formats import write


@pytest.fixture
def run(tiny_config):
    """Fetch once, then preprocess with further overrides; returns the run's manifest."""
    fetch.run(tiny_config())

    def preprocessed(*overrides: str) -> dict:
        config = tiny_config(*overrides)
        preprocess.run(config)
        return json.loads((config.run_dir / "manifest.json").read_text())

    return preprocessed


def pairs(count: int) -> list[dict]:
    return [
        {"prompt": f"{WORDS[n % 9]} {WORDS[n // 9 % 9]} {WORDS[n * 5 % 7]} {n}", "completion": WORDS[n % 8]}
        for n in range(count)
    ]


BAD = [
    {"prompt": "hello", "completion": None},
    {"prompt": "hello", "completion": "a <|im_end|> b"},
    {"prompt": "hello " * 200, "completion": "there"},
]
WRITTEN = {
    "jsonl": "one JSON value a line, UTF-8",
    "json": "a JSON document, UTF-8",
    "csv": "CSV, cells separated by commas, UTF-8",
    "parquet": "Parquet",
}
QUARANTINE = Path("outputs/tiny/quarantine.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_bad_rows_are_left_out_and_counted_in_every_format(run, suffix):
    write(Path(f"mine.{suffix}"), pairs(120) + BAD)
    manifest = run(f"data.source=mine.{suffix}", "data.on_error=quarantine")
    assert manifest["records"] == 123
    assert manifest["quarantined"] == {
        "rows": 3,
        "causes": {"null": 1, "prompt_too_long": 1, "template": 1},
        "file": QUARANTINE.as_posix(),
    }
    assert manifest["format"] == {
        "file": suffix,
        "shape": "prompt/completion",
        "columns": {"prompt": "prompt", "completion": "completion"},
        "files": [f"mine.{suffix}: {WRITTEN[suffix]}"],
    }
    where = [json.loads(line)["where"] for line in QUARANTINE.read_text().splitlines()]
    assert where == [f"mine.jsonl:{n}" if suffix == "jsonl" else f"mine.{suffix} row {n}" for n in (121, 122, 123)]


def test_stop_names_the_rows_and_the_next_run_removes_the_file(run):
    write(Path("mine.jsonl"), pairs(120) + BAD)
    with pytest.raises(RowError, match=r"3 of 123 rows.*mine\.jsonl:121: column completion.*Raise data\.max_length"):
        run("data.source=mine.jsonl")
    assert len(QUARANTINE.read_text().splitlines()) == 3
    assert run()["quarantined"] == {"rows": 0, "causes": {}, "file": None}
    assert not QUARANTINE.exists()


def test_many_turns_are_all_supervised(run, tokenizer):
    rows = []
    for n, row in enumerate(pairs(120)):
        turns = [
            ("user", row["prompt"]),
            ("assistant", "there"),
            ("user", f"what {n}"),
            ("assistant", row["completion"]),
        ]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    write(Path("mine.jsonl"), rows)
    run("data.source=mine.jsonl")
    for row in load_from_disk("data/processed/train"):
        answers = [message["content"] for message in row["completion"] if message["role"] == "assistant"]
        expected = [token for answer in answers for token in [*tokenizer(answer)["input_ids"], 1]]
        assert [label for label in row["labels"] if label != -100] == expected
        assert len(answers) == 2


def test_manifest_counts_add_up(run):
    rows = pairs(120)
    write(Path("mine.csv"), rows + rows[:30] + [row | {"prompt": row["prompt"].upper()} for row in rows[:10]])
    manifest = run("data.source=mine.csv", "data.max_train_examples=20")
    assert manifest["dropped"]["exact_duplicate"] == 40
    kept = sum(split["examples"] for split in manifest["splits"].values())
    assert manifest["records"] == 160 == kept + sum(manifest["dropped"].values())
    for name, split in manifest["splits"].items():
        lengths = manifest["lengths"][name]
        assert sum(lengths["prompt"]["counts"]) == sum(lengths["response"]["counts"]) == split["examples"]
    across = manifest["duplicates"]["after"]["across"]
    assert across["prompt"] == {"exact": 0, "near": 0}
    assert across["completion"]["exact"] > 0  # answers of one word are shared; the listed pairs name some
    assert {pair["column"] for pair in manifest["duplicates"]["remaining"]} == {"completion"}


def test_cut_rows_are_counted(run):
    """A cut row no longer has the token that closes its answer."""
    write(Path("mine.jsonl"), [row | {"completion": "there " * (n % 7 + 1)} for n, row in enumerate(pairs(120))])
    manifest = run("data.source=mine.jsonl", "data.max_length=16")
    for name, truncated in manifest["truncated"].items():
        rows = load_from_disk(f"data/processed/{name}")
        assert truncated == sum(row["input_ids"][-1] != 1 for row in rows)
        assert max(len(row["input_ids"]) for row in rows) == 16
    assert 0 < manifest["truncated"]["train"] < manifest["splits"]["train"]["examples"]
