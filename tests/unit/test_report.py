"""The report renders what the files say, and refuses to leave a hole."""

import json
from pathlib import Path

import pytest

from lorabundle import report
from lorabundle.artifacts import write_json, write_jsonl
from lorabundle.errors import MalformedInputError, MissingInputError

ROW = {"loss": 2.0, "perplexity": 7.389, "tokens": 1200, "examples": 20, "token_accuracy": 0.5, "exact_match": 0.0}
ROW |= {"rouge1": 0.1, "rouge2": 0.05, "rougeL": 0.09, "stop_rate": 0.25}


@pytest.fixture
def finished(smoke):
    """The smoke run's folder as its stages would leave it."""
    split = {"examples": 20, "groups": 10, "tokens": 2400, "response_tokens": 1200, "kinds": {"all": 20}, "sha256": "0"}
    manifest = {"source": "x.jsonl", "records": 70, "truncated": {"train": 1, "val": 0, "test": 0}}
    manifest |= {"dropped": {"exact_duplicate": 2}, "splits": dict.fromkeys(("train", "val", "test"), split)}
    environment = {"cpu": "Some CPU", "cores": 2, "memory_bytes": 8e9, "amx": False, "threads": 2, "dtype": "float32"}
    environment |= {"engine": "venv", "image": "", "commit": "abc", "platform": "Linux", "python": "3.11.2"}
    metrics = {
        "models": {"base": ROW, "finetuned": ROW | {"loss": 1.25, "perplexity": 3.49}},
        "baselines": {"uniform": {"loss": 10.8}, "unigram": {"loss": 7.1}},
        "delta": {"loss": {"mean": -0.75, "ci95": [-0.9, -0.6]}},
    }
    folder = smoke.run_dir
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "environment.json", environment | {"packages": {"torch": "2.13.0"}})
    write_json(folder / "metrics.json", metrics)
    for stage in report.RECORDED:
        write_json(smoke.record_path(stage), {"seconds": 1.5, "peak_rss_bytes": 2e9})
    sample = {"id": "s1", "prompt": [{"role": "user", "content": "Q?"}], "reference": "R"}
    sample |= {"base": "```\nrm | -rf\n```", "base_stopped": False, "finetuned": "F", "finetuned_stopped": True}
    write_jsonl(folder / "samples.jsonl", [sample])
    write_jsonl(
        folder / "train_log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.4}]
    )
    provenance = {"name": "tiny", "parameters": 1e6, "origin": {"folder": "data/models/mine"}}
    write_json(folder / "provenance.json", provenance)
    return smoke


def test_report_has_both_rows_and_the_difference(finished):
    report.run(finished)
    text = Path("reports/results.md").read_text()
    assert "| Base | 2.0000 | 7.39 | 50.0% | 0.100 | 0.050 | 0.090 | 0.0% | 25.0% |" in text
    assert "| Fine-tuned | 1.2500 | 3.49 |" in text
    assert "lowers the test loss: -0.7500 nats a token (95 % interval -0.9000 to -0.6000" in text
    assert "10.8000" in text
    assert "The numbers are for `tiny` (1.0 M parameters)" in text


def test_only_the_last_section_tells_machines_apart(finished):
    report.run(finished)
    before = Path("reports/results.md").read_text()
    figure = Path("reports/figures/loss.svg").read_bytes()
    environment = json.loads((finished.run_dir / "environment.json").read_text())
    changed = {key: "other" for key in ("cpu", "engine", "commit", "platform", "dtype")}
    write_json(finished.run_dir / "environment.json", environment | changed)
    write_json(finished.record_path("train"), {"seconds": 99, "peak_rss_bytes": 3e9})
    report.run(finished)
    after = Path("reports/results.md").read_text()
    heading = "\n## This run\n"
    assert before.split(heading)[0] == after.split(heading)[0]
    assert before.split(heading)[1] != after.split(heading)[1]
    assert "\n## " not in after.split(heading)[1]
    assert Path("reports/figures/loss.svg").read_bytes() == figure


def test_figures_are_drawn(finished):
    report.run(finished)
    assert sorted(path.name for path in Path("reports").rglob("*.*")) == ["loss.png", "loss.svg", "results.md"]
    assert Path("reports/figures/loss.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("hole", ["base", "finetuned"])
def test_missing_row_stops_the_report(finished, hole):
    """The system this replaces left its fine-tuned row as an ellipsis."""
    path = finished.run_dir / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["models"][hole] = {}
    write_json(path, metrics)
    with pytest.raises(MalformedInputError, match="not written with a hole"):
        report.run(finished)
    assert not Path("reports/results.md").exists()


@pytest.mark.parametrize(
    "name", ["metrics.json", "samples.jsonl", "train_log.jsonl", "environment.json", "stages/train.json"]
)
def test_missing_input_stops_the_report(finished, name):
    (finished.run_dir / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        report.run(finished)
    assert not Path("reports/results.md").exists()


def test_verdict_says_when_nothing_was_measured():
    metrics = {"delta": {"loss": {"mean": -0.01, "ci95": [-0.05, 0.03]}}, "models": {"base": ROW}}
    assert report.verdict(metrics).startswith("**No measurable difference:**")


def test_verdict_says_when_training_made_it_worse():
    metrics = {"delta": {"loss": {"mean": 0.2, "ci95": [0.1, 0.3]}}, "models": {"base": ROW}}
    assert "**raises** the test loss: +0.2000" in report.verdict(metrics)


def test_model_output_cannot_leave_its_code_block():
    text = "```\n# Heading\n````\nmore"
    fence = report.fenced(text).split("text\n")[0]
    assert fence == "`" * 5
    assert report.fenced(text).endswith("\n" + fence)


def test_default_model_is_not_called_phi_3_mini():
    origin = {"wheel": "w.whl", "gguf": "d/m.gguf"}
    sentence = report.model_sentence({"name": "m", "parameters": 134.5e6, "origin": origin})
    assert "it is not Phi-3-mini" in sentence


def test_hub_model_is_named_with_its_commit():
    origin = {"repo_id": "microsoft/Phi-3-mini-4k-instruct", "revision": "f" * 40}
    sentence = report.model_sentence({"name": "m", "parameters": 3.8e9, "origin": origin})
    assert f"`microsoft/Phi-3-mini-4k-instruct` at commit `{'f' * 40}`" in sentence
