"""The evaluation stage: what it refuses, and what it writes of each example."""

import math

import pytest

from lorabundle import evaluate
from lorabundle.compute.generate import Generation
from lorabundle.compute.scoring import Score
from lorabundle.core.errors import AdapterError
from lorabundle.core.files import hash_paths, read_json, read_jsonl, write_json
from tests import fake_run
from tests.conftest import ask


@pytest.mark.parametrize("changed", ["base model", "adapter"])
def test_adapter_or_base_other_than_in_training_is_refused(smoke, changed):
    """An adapter fits any base of the same shape, and gives a plausible but wrong loss on it."""
    folders = {"base model": smoke.model_dir, "adapter": smoke.adapter_dir}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"right")
    record = {"inputs": hash_paths([smoke.model_dir]), "outputs": hash_paths([smoke.adapter_dir])}
    write_json(smoke.record_path("train"), record)
    evaluate.check_adapter_is_of_base(smoke)
    (folders[changed] / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(AdapterError, match=f"weights.safetensors is not the {changed} of the training"):
        evaluate.check_adapter_is_of_base(smoke)


def test_adapter_that_changes_no_loss_is_refused(smoke):
    scores = [Score(nats=2.0, tokens=1, correct=0), Score(nats=3.0, tokens=2, correct=1)]
    with pytest.raises(
        AdapterError, match="changes nothing: on every test example its loss is exactly the base model's"
    ):
        evaluate.check_adapter_has_effect(scores, list(scores), smoke)
    evaluate.check_adapter_has_effect(scores, [scores[0], Score(nats=3.0 - 1e-12, tokens=2, correct=1)], smoke)


def test_formats_are_noted_unless_each_is_one_dtype(saved_tiny):
    """Results of ordinary runs have no such key, so that they have the bytes that they always had."""
    plain = dict.fromkeys(("dtype", "compute_dtype", "activation_dtype"), "float32")
    settings = ["model.dtype=int8", "model.compute_dtype=float32"]
    write_json(saved_tiny().run_dir / "environment.json", plain)
    assert evaluate.formats(saved_tiny()) == {}
    kept = {"dtype": "int8", "compute_dtype": "float32", "activation_dtype": "float32"}
    assert evaluate.formats(saved_tiny(*settings)) == {"formats": {"training": plain, "evaluation": kept}}
    write_json(saved_tiny().run_dir / "environment.json", kept | {"cpu": "a CPU"})
    assert evaluate.formats(saved_tiny()) == {"formats": {"training": kept, "evaluation": plain}}


def test_what_is_measured_of_a_model(smoke, tokenizer, monkeypatch):
    """Answers and their scores stay with their rows; a dataset without verifiers has no marks."""
    answers = [Generation("robe", stopped=True), Generation("hello", stopped=False)]
    monkeypatch.setattr(evaluate, "generate", lambda *arguments: answers)
    scores = [Score(nats=2.0, tokens=1, correct=1), Score(nats=5.0, tokens=1, correct=0)]
    first, second = evaluate.measure(None, tokenizer, [ask("what", "robe"), ask("it", "robe")], scores, smoke)
    assert (first["nats"], first["correct"], first["text"], first["stopped"]) == (2.0, 1, "robe", True)
    assert (first["exact_match"], second["exact_match"], second["stopped"]) == (True, False, False)
    assert "score" not in first


def test_a_row_of_the_examples_file():
    row = ask("what", "robe", kind="k") | {"input_ids": [1, 2], "labels": [-100, 2]}
    (example,) = evaluate.example_rows([row], [Score(nats=2.0, tokens=3, correct=1)], [{"nats": 2.0}], [{"nats": 1.0}])
    assert example == {
        "id": "what",
        "group": "what",
        "kind": "k",
        "prompt": row["prompt"],
        "reference": "robe",
        "tokens": 3,
        "base": {"nats": 2.0},
        "finetuned": {"nats": 1.0},
    }


def test_results_are_the_facts_and_what_follows_from_the_examples(smoke):
    """Base loss (20 + 20 + 22 + 18) / 40 = 2, fine-tuned (10 + 12 + 15 + 23) / 40 = 1.5."""
    facts = {"warnings": [], "baselines": {"uniform": {"loss": math.log(2)}}}
    examples_path, metrics_path = evaluate.write_results(smoke, fake_run.examples(), facts)
    assert read_jsonl(examples_path, "") == fake_run.examples()
    metrics = read_json(metrics_path, "")
    assert list(metrics)[:5] == ["schema", "run", "seed", "warnings", "baselines"]
    assert (metrics["run"], metrics["seed"]) == ("smoke", 42)
    assert [metrics["models"][name]["loss"] for name in ("base", "finetuned")] == [2.0, 1.5]
    assert metrics["baselines"] == facts["baselines"]
