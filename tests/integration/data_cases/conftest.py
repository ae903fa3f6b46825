"""A project with the default model, in which a test writes a dataset as people have them, and preprocesses it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from lorabundle import preprocess
from lorabundle.core.config_file import load_config
from lorabundle.core.errors import LorabundleError
from lorabundle.model.prompts import IGNORE_INDEX
from tests.conftest import ROOT

MODEL = "data/models/smollm2-135m-phi3"
ANIMALS = ["otter", "heron", "lynx", "newt", "marten", "egret", "stoat", "crane"]
PLACES = ["a river bank", "an old quarry", "the north gate", "a reed bed", "a stone wall"]


def question(n: int) -> str:
    return f"Note {n}: which animal did ranger {chr(65 + n % 26)}{n} log near {PLACES[n % 5]} on day {n * 7}?"


def answer(n: int) -> str:
    return (
        f"Ranger {chr(65 + n % 26)}{n} logged one {ANIMALS[n % 8]} near {PLACES[n % 5]}, number {n * 13} of the season."
    )


def pairs(prompt: str = "prompt", completion: str = "completion", count: int = 40) -> list[dict]:
    return [{prompt: question(n), completion: answer(n)} for n in range(count)]


def chat(n: int) -> list[dict]:
    return [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer(n)}]


def jsonl(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[dict], delimiter: str = ",", **options) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Case:
    """A project with the default model, in which files are written and preprocessed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, content: str | bytes, encoding: str = "utf-8") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return name

    def preprocess(self, source: str | None, *overrides: str) -> dict:
        """The manifest after preprocessing `source`."""
        sources = [f"data.source={source}"] if source else ["data.packages=[]"]
        settings = ["run=case", *sources, "data.max_length=256", "data.max_train_examples=2000"]
        settings += ["data.max_val_examples=500", "data.max_test_examples=500", *overrides]
        config = load_config(Path("config/smoke.yaml"), settings)
        preprocess.run(config)
        return json.loads((config.run_dir / "manifest.json").read_text())

    def learns(self, content: str | bytes, name: str = "mine.jsonl", *overrides: str) -> list[dict]:
        """All rows of the three splits after preprocessing one file."""
        self.preprocess(self.write(name, content), *overrides)
        return self.rows()

    def rows(self) -> list[dict]:
        return [row for split in ("train", "val", "test") for row in self.split(split)]

    def split(self, name: str) -> list[dict]:
        return load_from_disk(f"data/processed/{name}").to_list()

    def refused(self, content: str | bytes, name: str = "mine.jsonl", *overrides: str, error=LorabundleError) -> str:
        """The message with which preprocessing one file ends."""
        with pytest.raises(error) as caught:
            self.preprocess(self.write(name, content), *overrides)
        return str(caught.value)


@pytest.fixture
def case(workspace: Path, fetched) -> Case:
    (workspace / "data/raw").mkdir(parents=True)
    for name in ("data/models", "data/raw/wheels"):
        (workspace / name).symlink_to(ROOT / name)
    return Case(workspace)


@pytest.fixture(scope="module")
def decode() -> Callable[[dict], str]:
    """The text that a row's labels stand for."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / MODEL)
    return lambda row: tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])


def texts(rows: list[dict]) -> set[tuple[str, str]]:
    """(prompt without its system message, completion) of rows with one turn."""
    return {(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in rows}


EXPECTED = {(question(n), answer(n)) for n in range(40)}
