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
from tests.conftest import ROOT, TINY

OVERRIDES = [
    *(override for override in TINY if not override.startswith(("data.source", "data.packages"))),
    "run=tiny",
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
    """Have the model answer so."""
    generations = [Generation(text, stopped=True) for text in answers]
    monkeypatch.setattr(evaluate, "generate", lambda *arguments: generations)


def test_splits_hold_the_tasks(prepared):
    manifest = read_json(prepared.run_dir / "manifest.json", "")
    assert manifest["source"] == "reasoning_gym"
    assert manifest["licences"] == {"reasoning-gym": "Apache-2.0"}
    assert manifest["records"] == 120
    assert set(manifest["splits"]["train"]["kinds"]) == {"chain_sum", "word_sequence_reversal"}


def test_accuracy_is_the_verifiers(prepared, tokenizer, monkeypatch):
    """The base answers nothing rightly, the fine-tuned model every question but the first."""
    rows = load_from_disk("data/processed/test").to_list()
    right = [evaluate.reference(row) for row in rows]
    scores = [Score(nats=1.0, tokens=1, correct=0)] * len(rows)
    measured = {}
    for name, answers in {"base": ["I do not know."] * len(rows), "finetuned": ["?", *right[1:]]}.items():
        answering(monkeypatch, answers)
        measured[name] = evaluate.measure(None, tokenizer, rows, scores, prepared)
    examples = [
        {key: row[key] for key in ("id", "group", "kind")}
        | {"reference": right[n], "tokens": 1}
        | {name: results[n] for name, results in measured.items()}
        for n, row in enumerate(rows)
    ]
    summary = summarise(examples, seed=0)
    assert len(rows) > 5
    assert summary["models"]["base"]["accuracy"]["correct"] == 0
    assert summary["models"]["finetuned"]["accuracy"]["correct"] == len(rows) - 1
    by_kind = [kind["models"]["finetuned"]["accuracy"]["correct"] for kind in summary["kinds"].values()]
    assert len(by_kind) == 2
    assert sum(by_kind) == len(rows) - 1
