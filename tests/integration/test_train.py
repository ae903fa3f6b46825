"""Training on a tiny Phi-3: the same bytes each time, also after being killed, and the losses of the stock trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from transformers import set_seed
from trl import SFTTrainer

from lorabundle import fetch, preprocess, train
from lorabundle.compute.load import attach_lora, load_adapter, load_base
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.core.errors import DivergenceError
from lorabundle.core.files import hash_paths, sha256_file
from lorabundle.model.architecture import load_tokenizer
from lorabundle.training import checkpoints, step
from lorabundle.training.trainer import LoraTrainer, sft_config
from tests.conftest import ROOT, TINY


@pytest.fixture
def prepared(tiny_config, monkeypatch):
    """The tiny project, fetched and preprocessed."""
    fetch.run(tiny_config())
    preprocess.run(tiny_config())
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))  # for the process that reloads the adapter
    return tiny_config


def trained(config) -> str:
    """Train in this process; return the adapter's sha256."""
    train.run(config)
    return sha256_file(config.adapter_dir / "adapter_model.safetensors")


def train_log(config) -> list[dict]:
    return [json.loads(line) for line in (config.run_dir / "train_log.jsonl").read_text().splitlines()]


def test_same_seed_same_bytes_and_other_seed_other_bytes(prepared):
    first = trained(prepared("train.max_steps=6"))
    assert trained(prepared("train.max_steps=6")) == first
    assert trained(prepared("train.max_steps=6", "seed=7")) != first


def test_adapter_folder_is_the_same_in_every_process(prepared, monkeypatch):
    """PEFT keeps target_modules in a set and writes it in an order that depends on the process's hash seed."""
    config = prepared("train.max_steps=2", "train.save_steps=2")
    command = [sys.executable, "-m", "lorabundle.train", "--config", "config/smoke.yaml", "--set", *TINY]
    command += ["train.max_steps=2", "train.save_steps=2"]
    folders = []
    for seed in ("1", "2"):
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True)
        folders.append(hash_paths([config.adapter_dir]))
    assert folders[0] == folders[1]


def test_stopped_after_the_last_step_takes_no_other_step(prepared, monkeypatch):
    """Steps that do not fill an epoch: the trainer, resumed at its last step, would take one more."""
    settings = ["train.max_steps=4", "train.save_steps=2", "train.lr_scheduler_type=constant_with_warmup"]
    expected = trained(prepared(*settings, "run=uninterrupted"))
    config = prepared(*settings)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_adapter", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(config)
    assert trained(config) == expected
    assert max(row["step"] for row in train_log(config)) == 4


def test_shorter_than_logging_steps_still_logs_a_training_loss(prepared):
    """The past bug: such a run had no training loss in its log, so it could never be reported."""
    often, seldom = ("train.logging_steps=1", "run=often"), ("train.logging_steps=5", "run=seldom")
    steps = ("train.max_steps=3", "train.eval_steps=5", "train.save_steps=5")
    adapters = [trained(prepared(*steps, *logging)) for logging in (often, seldom)]
    assert adapters[0] == adapters[1]
    expected, found = (train_log(prepared(*steps, *logging)) for logging in (often, seldom))
    assert [row["step"] for row in found if "loss" in row] == [3]
    assert [row["step"] for row in found if "eval_loss" in row] == [3]
    losses = [row["loss"] for row in expected if "loss" in row]
    assert found[0]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    tokens = [row["tokens"] for row in expected if "loss" in row]
    assert found[0]["tokens"] == tokens[-1]
    assert 1 < found[0]["tokens_per_second"] < 1e6
    assert checkpoints.COMPLETE in {file.name for file in Path("outputs/seldom/checkpoints/checkpoint-3").iterdir()}


def test_resumed_before_a_last_step_that_logging_steps_does_not_divide(prepared, monkeypatch):
    """Steps 5 and 7 are logged, and 7 has the mean loss of 6 and 7."""
    settings = ["train.max_steps=7", "train.logging_steps=5", "train.eval_steps=5", "train.save_steps=5"]
    expected = trained(prepared(*settings, "run=uninterrupted"))
    config = prepared(*settings)
    interrupted(config, monkeypatch, step=6)
    assert trained(config) == expected
    rows, uninterrupted = train_log(config), train_log(prepared("run=uninterrupted"))
    assert [(row["step"], row.get("loss")) for row in rows] == [(row["step"], row.get("loss")) for row in uninterrupted]
    assert [row["step"] for row in rows if "loss" in row] == [5, 7]
    assert all(1 < row["tokens_per_second"] < 1e6 for row in rows if "loss" in row)


def test_training_lowers_the_validation_loss(prepared):
    config = prepared("train.max_steps=60", "train.eval_steps=30", "train.save_steps=30", "train.learning_rate=1e-2")
    rows = load_from_disk("data/processed/val").to_list()
    untrained = mean_loss(score_responses(load_base(config), rows))
    trained(config)
    first, last = (row["eval_loss"] for row in train_log(config) if "eval_loss" in row)
    assert last < first < untrained


@pytest.mark.parametrize("save_steps", [8, 10], ids=["in the middle of an epoch", "at the end of an epoch"])
def test_killed_run_resumes_to_the_same_adapter(prepared, save_steps):
    """SIGKILL leaves no time to clean up; a resumed run must end where an uninterrupted one ends. (An epoch is 10 steps.)"""
    settings = ["train.max_steps=120", f"train.save_steps={save_steps}", "train.eval_steps=100"]
    expected = trained(prepared(*settings, "run=uninterrupted"))

    config = prepared(*settings)
    command = [sys.executable, "-m", "lorabundle.train", "--config", "config/smoke.yaml", "--set", *TINY, *settings]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    marker = config.run_dir / "checkpoints" / f"checkpoint-{3 * save_steps}" / checkpoints.COMPLETE
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not config.adapter_dir.exists()
    assert not config.record_path("train").exists()

    finished = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from outputs/tiny/checkpoints/checkpoint-" in finished.stdout
    assert sha256_file(config.adapter_dir / "adapter_model.safetensors") == expected
    untimed = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]
        for rows in (train_log(config), train_log(prepared("run=uninterrupted")))
    ]
    assert untimed[0] == untimed[1]


def interrupted(config, monkeypatch, step: int) -> Path:
    """Train until `step`, then stop as Ctrl-C would; returns the folder of checkpoints."""
    original = train.TrainingLog.on_step_end

    def stop(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.TrainingLog, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(config)
    return config.run_dir / "checkpoints"


def fingerprint(config) -> str:
    return checkpoints.training_fingerprint(config, json.loads(Path("data/processed/manifest.json").read_text()))


def test_finished_training_starts_from_the_beginning(prepared):
    config = prepared("train.max_steps=4")
    trained(config)
    assert checkpoints.last_checkpoint(config, fingerprint(config)) is None


def test_checkpoints_are_small_and_only_the_last_are_kept(prepared, monkeypatch):
    """They hold only the adapter: the system that this one replaces saved the base model too, and ran out of memory."""
    folder = interrupted(prepared("train.max_steps=20", "train.save_steps=2"), monkeypatch, step=9)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-6", "checkpoint-8"]
    names = load_file(folder / "checkpoint-8" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4)])
def test_accumulation_does_not_change_the_loss_or_the_gradient(prepared, batch, accumulation):
    """Without normalisation by tokens, 8x1 and 1x8 would train differently."""

    def first_step(run, batch, accumulation):
        config = prepared(
            f"run={run}",
            "train.max_steps=2",
            f"train.per_device_train_batch_size={batch}",
            f"train.gradient_accumulation_steps={accumulation}",
        )
        trained(config)
        return train_log(config)[0]

    together = first_step("together", 8, 1)
    parts = first_step("parts", batch, accumulation)
    assert parts["loss"] == pytest.approx(together["loss"], rel=1e-5)
    assert parts["grad_norm"] == pytest.approx(together["grad_norm"], rel=1e-5)


def test_bfloat16_base_keeps_a_float32_adapter(prepared):
    """As on a CPU with AMX: a bfloat16 adapter would lose updates of the size that training makes."""
    config = prepared("model.dtype=bfloat16", "model.compute_dtype=bfloat16", "train.max_steps=4")
    trained(config)
    assert load_base(config).dtype is torch.bfloat16
    weights = load_file(config.adapter_dir / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(row["loss"] > 0 for row in train_log(config) if "loss" in row)


class StockTrainer(SFTTrainer):
    """TRL's trainer with its own padded forward pass, loss and layers, on rows in our order."""

    def _get_train_sampler(self, train_dataset=None):
        return LoraTrainer._get_train_sampler(self)


@pytest.mark.parametrize("max_tokens", [1024, 20], ids=["one pass a batch", "several passes a batch"])
def test_losses_are_those_of_the_stock_trainer(prepared, tmp_path, max_tokens):
    """The same rows in the same order for 20 steps, in float32: only the speed may differ."""
    config = prepared(
        "train.max_steps=20",
        "train.learning_rate=1e-2",
        "train.per_device_train_batch_size=4",
        "train.gradient_accumulation_steps=2",
        f"train.max_tokens={max_tokens}",
    )
    trained(config)
    set_seed(config.seed)
    arguments = sft_config(config, tmp_path / "stock")
    arguments.eval_strategy, arguments.save_strategy, arguments.gradient_checkpointing = "no", "no", True
    stock = StockTrainer(
        model=attach_lora(load_base(config), config),
        args=arguments,
        train_dataset=load_from_disk("data/processed/train").select_columns(["input_ids", "labels"]),
        processing_class=load_tokenizer(config.model_dir),
    )
    stock.train()
    expected = [row for row in stock.state.log_history if "loss" in row]
    ours = [row for row in train_log(config) if "loss" in row]
    assert len(ours) == len(expected) == 20
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"]
    for row, wanted in zip(ours, expected, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3)


def test_gradient_checkpointing_changes_nothing(prepared):
    """It repeats the forward pass within the backward pass, where attention must still be the packed one."""
    steps = ["train.max_steps=6"]
    trained(prepared(*steps, "run=plain"))
    trained(prepared(*steps, "train.gradient_checkpointing=true"))
    losses = [[row["loss"] for row in train_log(prepared(run)) if "loss" in row] for run in ("run=plain", "run=tiny")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_dropout_takes_the_plain_layers(prepared):
    """With dropout, each row needs its own, so no tokens are shared and PEFT's own layers compute."""
    config = prepared("train.max_steps=4", "lora.lora_dropout=0.2")
    settings, rows = load_base(config).config, load_from_disk("data/processed/train")
    assert step.count_sharable_tokens(settings, 0.2, rows) == 0
    assert step.count_sharable_tokens(settings, 0.0, rows) > 0
    trained(config)
    assert all(row["loss"] > 0 for row in train_log(config) if "loss" in row)


@pytest.mark.parametrize(
    ("kept", "computed", "stored"),
    [
        ("bfloat16", "float32", torch.bfloat16),
        ("int8", "float32", torch.int8),
        ("int8", "int8", torch.int8),
        ("nf4", "float32", torch.uint8),
        ("nf4", "bfloat16", torch.uint8),
        ("nf4", "int8", torch.uint8),
    ],
)
def test_base_in_another_format_is_trained_reloaded_and_evaluated(prepared, kept, computed, stored):
    """The base's linear layers in fewer bits, the adapter in float32, the same in every later process."""
    steps = "train.max_steps=40", "train.learning_rate=1e-2"
    config = prepared(f"model.dtype={kept}", f"model.compute_dtype={computed}", *steps)
    trained(config)
    rows = [row["loss"] for row in train_log(config) if "loss" in row]
    assert rows[-1] < 0.9 * rows[0]
    model = load_base(config)
    assert model.model.layers[0].mlp.down_proj.weight.dtype is stored
    weights = load_file(config.adapter_dir / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    val = load_from_disk("data/processed/val").to_list()
    loss = mean_loss(score_responses(load_adapter(model, config.adapter_dir), val))
    logged = [row["eval_loss"] for row in train_log(config) if "eval_loss" in row][-1]
    assert loss == pytest.approx(logged, abs=1e-4 if computed == "float32" else 2e-2)


def test_divergence_stops_the_run(prepared):
    with pytest.raises(DivergenceError, match=r"training has diverged. Lower train\.learning_rate"):
        train.run(prepared("train.max_steps=20", "train.learning_rate=1e30", "train.warmup_steps=0"))
