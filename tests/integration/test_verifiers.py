"""The reasoning run's path: questions from the wheel become splits, and answers are marked by the library's verifiers."""

from pathlib import Path

import pytest
from datasets import load_from_disk

from lorabundle import evaluate, fetch, preprocess
from lorabundle.compute.generate import Generation
from lorabundle.compute.scoring import Score
from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config
from lorabundle.core.files import read_json
from lorabundle.evaluation.aggregate import summarise
from lorabundle.evaluation.baselines import reference
from tests.conftest import ROOT, TINY

OVERRIDES = [
    *(override for override in TINY if not override.startswith(("data.source", "data.packages"))),
    "run=tiny",
    "data.source=reasoning_gym",  # and with it not the tasks of reasoning.yaml
    "data.tasks={chain_sum: {size: 60, seed: 1}, word_sequence_reversal: {size: 60, seed: 2}}",
    "data.max_length=128",
]


@pytest.fixture
def prepared(tiny_project: Path) -> Config:
    """A small reasoning run up to its splits."""
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/wheels").symlink_to(ROOT / "data/raw/wheels")
    run_config = load_config(Path("config/reasoning.yaml"), OVERRIDES)
    fetch.run(run_config)
    preprocess.run(run_config)
    return run_config


def answering(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    """Give the model these answers."""
    generations = [Generation(text, stopped=True) for text in answers]
    monkeypatch.setattr(evaluate, "generate", lambda *arguments: generations)


def test_splits_hold_the_tasks(prepared):
    manifest = read_json(prepared.run_dir / "manifest.json", "")
    assert manifest["source"] == "reasoning_gym"
    assert manifest["licences"] == {"reasoning-gym": "Apache-2.0"}
    assert manifest["records"] == 120
    assert set(manifest["splits"]["train"]["kinds"]) == {"chain_sum", "word_sequence_reversal"}


def test_accuracy_is_the_verifiers(prepared, tokenizer, monkeypatch):
    """The base model has no right answer; the fine-tuned model has all except the first."""
    rows = load_from_disk("data/processed/test").to_list()
    right = [reference(row) for row in rows]
    scores = [Score(nats=1.0, tokens=1, correct=0)] * len(rows)
    measured = []
    for answers in (["I do not know."] * len(rows), ["?", *right[1:]]):
        answering(monkeypatch, answers)
        measured.append(evaluate.measure(None, tokenizer, rows, scores, prepared))
    examples = evaluate.example_rows(rows, scores, *measured)
    summary = summarise(examples, seed=0)
    assert len(rows) > 5
    assert summary["models"]["base"]["accuracy"]["correct"] == 0
    assert summary["models"]["finetuned"]["accuracy"]["correct"] == len(rows) - 1
    by_kind = [kind["models"]["finetuned"]["accuracy"]["correct"] for kind in summary["kinds"].values()]
    assert len(by_kind) == 2
    assert sum(by_kind) == len(rows) - 1


def test_most_frequent_answers_are_marked_too(prepared):
    """For each row, that of its kind in training: the verifier finds it right where it is the row's own answer."""
    train, rows = (load_from_disk(f"data/processed/{name}").to_list() for name in ("train", "test"))
    examples = [{} for _ in rows]
    evaluate.add_majority(examples, train, rows, prepared)
    for example, row in zip(examples, rows, strict=True):
        answers = [reference(other) for other in train if other["kind"] == row["kind"]]
        assert answers.count(example["majority"]["text"]) == max(map(answers.count, answers))
        assert (example["majority"]["score"] == 1.0) == (example["majority"]["text"] == reference(row))
