"""The smoke run on the real model, stage by stage as commands, and what a reviewer would check in its results."""

import json
import math
import subprocess
import sys
from collections import Counter

import pytest
from datasets import load_from_disk
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from lorabundle.core.files import sha256_file
from lorabundle.core.stage import STAGES
from tests.conftest import run_stage


def test_each_stage_leaves_exactly_its_files(project):
    def of_run(stage, *names):
        always = {f"outputs/smoke/logs/{stage}.log", f"outputs/smoke/stages/{stage}.json"}
        return always | {f"outputs/smoke/{name}" for name in names}

    sections = [
        f".sections/{n}.yaml"
        for n in ["run", "seed", "numerics", "model", "data", "lora", "train", "evaluate", "sample"]
    ]
    figures = ["loss", "change", "prompt_lengths", "response_lengths"]
    arrow = ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]
    checkpoint = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "complete.json",
        "optimizer.pt",
        "README.md",
        "rng_state.pth",
        "scheduler.pt",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "training_args.bin",
    ]
    adapter = "README.md adapter_config.json adapter_model.safetensors chat_template.jinja tokenizer.json tokenizer_config.json"
    assert project.new == {
        "fetch": of_run("fetch", "config.yaml", "provenance.json", *sections),
        "preprocess": of_run("preprocess", "manifest.json")
        | {"data/raw/docstrings.jsonl", "data/processed/manifest.json"}
        | {f"data/processed/{split}/{name}" for split in ("train", "val", "test") for name in arrow},
        "train": of_run(
            "train",
            "environment.json",
            "train_log.jsonl",
            "checkpoints/finished.json",
            *(f"adapter/{name}" for name in adapter.split()),
            *(f"checkpoints/checkpoint-{step}/{name}" for step in (2, 4) for name in checkpoint),
        )
        | {"outputs/.probe.json"},
        "evaluate": of_run("evaluate", "examples.jsonl", "metrics.json"),
        "sample": of_run("sample", "samples.jsonl"),
        "report": of_run("report", "RESULTS.sha256")
        | {"reports/results.md", "reports/results.html"}
        | {f"reports/figures/{name}.{kind}" for name in figures for kind in ("png", "svg")},
        "archive": of_run("archive") | {"archive/submission-smoke.tar.gz", "archive/submission-smoke.tar.gz.sha256"},
    }


def test_records_hash_what_is_there(project):
    for stage in STAGES:
        record = json.loads((project.run / "stages" / f"{stage}.json").read_text())
        assert record["outputs"]
        assert {name: sha256_file(project.folder / name) for name in record["outputs"]} == record["outputs"]
        assert record["seconds"] > 0
        assert 1e7 < record["peak_rss_bytes"] < 8e9


def test_fine_tuning_lowers_the_loss_and_the_base_is_plausible(project):
    metrics = json.loads((project.run / "metrics.json").read_text())
    base, finetuned = metrics["models"]["base"], metrics["models"]["finetuned"]
    assert finetuned["loss"] < base["loss"] < metrics["baselines"]["unigram"]["loss"]
    assert metrics["baselines"]["uniform"]["loss"] == math.log(49_152)
    assert metrics["delta"]["loss"]["mean"] == pytest.approx(finetuned["loss"] - base["loss"])
    for model in (base, finetuned):
        assert model["perplexity"] == pytest.approx(math.exp(model["loss"]))
        assert model["examples"] == 6
        assert 0 < model["token_accuracy"] < 1


def test_adapter_loads_with_plain_peft_in_a_fresh_process(project):
    """As a reviewer would, without this package. (test_independent compares the loss that it then gives.)"""
    script = """
from peft import PeftModel
from transformers import AutoModelForCausalLM
PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("data/models/smollm2-135m-phi3"), "outputs/smoke/adapter")
"""
    command = [sys.executable, "-W", "error::UserWarning:peft", "-c", script]
    finished = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "missing" not in finished.stderr.lower()


def test_no_group_and_no_record_is_in_two_splits(project):
    splits = [load_from_disk(project.folder / "data/processed" / name) for name in ("train", "val", "test")]
    for column in ("group", "id"):
        values = [set(split[column]) for split in splits]
        assert sum(map(len, values)) == len(set().union(*values)) > 0


def test_labels_are_the_response_and_its_end_of_turn(project, fetched):
    """On the real tokenizer: decoding the supervised tokens gives the reference and the stop token, nothing else."""
    from lorabundle.model.architecture import load_tokenizer

    tokenizer = load_tokenizer(fetched)
    for row in load_from_disk(project.folder / "data/processed/train"):
        supervised = [label for label in row["labels"] if label != -100]
        text = row["completion"][0]["content"] + "<|im_end|>"
        whole = len(row["input_ids"]) < 96  # not cut at max_length
        assert text.startswith(tokenizer.decode(supervised))
        assert not whole or tokenizer.decode(supervised) == text
        unsupervised = row["input_ids"][: -len(supervised)]
        assert tokenizer.decode(unsupervised).endswith("<|im_start|>assistant\n")


def test_training_log(project):
    rows = [json.loads(line) for line in (project.run / "train_log.jsonl").read_text().splitlines()]
    train = [row for row in rows if "loss" in row]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert set(train[0]) == {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second"}
    assert [row["step"] for row in rows if "eval_loss" in row] == [2, 4]
    manifest = json.loads((project.run / "manifest.json").read_text())
    assert 0 < train[-1]["tokens"] <= manifest["splits"]["train"]["tokens"]
    assert "step 1/4  loss" in project.output["train"]
    assert "min left" in project.output["train"]
    assert "largest logit difference" in project.output["train"]


def test_report_shows_the_metrics(project):
    text = (project.folder / "reports/results.md").read_text()
    page = (project.folder / "reports/results.html").read_text()
    metrics = json.loads((project.run / "metrics.json").read_text())
    for model in metrics["models"].values():
        assert f"| {model['loss']:.4f} | {model['perplexity']:,.2f} |" in text
        assert f"<td>{model['loss']:.4f}</td><td>{model['perplexity']:,.2f}</td>" in page
    samples = (project.run / "samples.jsonl").read_text().splitlines()
    assert text.count("### ") == page.count('<article class="sample"') == len(samples)
    for rendering in (text, page):
        assert "it is not Phi-3-mini" in rendering
        assert "…" not in rendering


def test_samples_are_of_test_prompts(project):
    test = load_from_disk(project.folder / "data/processed/test")
    samples = [json.loads(line) for line in (project.run / "samples.jsonl").read_text().splitlines()]
    assert [sample["id"] for sample in samples if sample["picked"] == "first"] == test["id"][:2]
    assert {sample["id"] for sample in samples} <= set(test["id"])
    assert all(sample["base"] and sample["finetuned"] for sample in samples)


def test_every_aggregate_follows_from_the_examples(project):
    """With arithmetic of the test's own, from the file as a reviewer finds it."""
    rows = [json.loads(line) for line in (project.run / "examples.jsonl").read_text().splitlines()]
    metrics = json.loads((project.run / "metrics.json").read_text())
    tokens = sum(row["tokens"] for row in rows)
    references = [row["reference"] for row in rows]
    for name, model in metrics["models"].items():
        texts = [row[name]["text"] for row in rows]
        scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
        rouge = [scorer.score(*pair) for pair in zip(references, texts, strict=True)]
        assert model["loss"] == pytest.approx(sum(row[name]["nats"] for row in rows) / tokens)
        assert model["token_accuracy"] == pytest.approx(sum(row[name]["correct"] for row in rows) / tokens)
        assert model["rouge1"] == pytest.approx(sum(score["rouge1"].fmeasure for score in rouge) / len(rows))
        assert model["rougeL"] == pytest.approx(sum(score["rougeL"].fmeasure for score in rouge) / len(rows))
        assert model["bleu"] == pytest.approx(BLEU().corpus_score(texts, [references]).score)
        assert model["chrf"] == pytest.approx(CHRF().corpus_score(texts, [references]).score)
        assert model["exact_match"] == sum(map(str.__eq__, texts, references)) / len(rows)
        assert model["stop_rate"] == sum(row[name]["stopped"] for row in rows) / len(rows)
    better = sum(row["finetuned"]["nats"] < row["base"]["nats"] for row in rows)
    assert metrics["sign_test"]["improved"] == better
    assert {kind: values["examples"] for kind, values in metrics["kinds"].items()} == Counter(r["kind"] for r in rows)


def test_model_card_has_no_placeholder(project):
    card = (project.run / "adapter/README.md").read_text()
    assert "24 examples" in card
    assert "More Information Needed" not in card


def test_a_second_preprocess_gives_the_same_bytes(project):
    manifest = (project.run / "manifest.json").read_bytes()
    changed = (project.run / "manifest.json").stat().st_mtime_ns
    run_stage("preprocess", cwd=project.folder)
    assert (project.run / "manifest.json").read_bytes() == manifest
    assert (project.run / "manifest.json").stat().st_mtime_ns == changed  # so that make does not train again
