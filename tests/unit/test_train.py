"""The steps of the train command, each by itself."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerState

from lorabundle import train
from lorabundle.core import machine
from lorabundle.core.files import write_json
from tests.conftest import word_tokenizer


def test_last_validation_loss_is_the_newest():
    history = [{"step": 2, "eval_loss": 3.0}, {"step": 4, "loss": 9.0}, {"step": 4, "eval_loss": 2.0}, {"step": 4}]
    assert train.last_val_loss(TrainerState(log_history=history)) == 2.0


class FakeTrainer:
    """Notes what it is asked to do."""

    def __init__(self):
        self.calls: list[tuple] = []
        self.tokens_seen = 0

    def train(self, **kwargs):
        self.calls.append(("train", kwargs))

    def _load_from_checkpoint(self, path):
        self.calls.append(("load", path))


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint after step 2, with the tokens of two logged losses."""
    state = TrainerState(global_step=2, log_history=[{"step": 1, "tokens": 100}, {"step": 2, "tokens": 250}])

    def at(max_steps: int):
        state.max_steps = max_steps
        state.save_to_json(str(tmp_path / "trainer_state.json"))
        return tmp_path

    return at


def test_without_a_checkpoint_training_starts_at_the_beginning():
    trainer = FakeTrainer()
    train.train_or_resume(trainer, None)
    assert (trainer.calls, trainer.tokens_seen) == ([("train", {})], 0)


def test_resumed_in_the_middle(checkpoint):
    trainer, path = FakeTrainer(), checkpoint(max_steps=3)
    train.train_or_resume(trainer, path)
    assert (trainer.calls, trainer.tokens_seen) == ([("train", {"resume_from_checkpoint": str(path)})], 250)


def test_resumed_after_the_last_step_takes_no_other_step(checkpoint):
    trainer, path = FakeTrainer(), checkpoint(max_steps=2)
    train.train_or_resume(trainer, path)
    assert (trainer.calls, trainer.tokens_seen) == ([("load", str(path))], 250)
    assert trainer.state.global_step == 2


def test_log_says_what_decides_the_threads(monkeypatch):
    monkeypatch.setattr(machine, "threads", lambda: machine.Limit(2, "2.5 CPUs by cpu.max"))
    assert train.why_threads(2) == "2.5 CPUs by cpu.max"
    assert train.why_threads(4) == "as THREADS or OMP_NUM_THREADS says; without it 2, 2.5 CPUs by cpu.max"


def test_environment_says_what_memory_decided(smoke, monkeypatch):
    """The config that fits goes on, not the one that was asked for."""
    fitting = smoke.model_copy(update={"train": smoke.train.model_copy(update={"max_tokens": 256})})
    asked = []
    rows = Dataset.from_list([{"row": 0}, {"row": 1}])
    monkeypatch.setattr(train, "training_passes", lambda *arguments: asked.append(arguments) or "passes")
    memory = SimpleNamespace(
        largest_pass=lambda passes: ([1], 3),
        fit=lambda *arguments: asked.append(arguments) or (fitting, {"adapter": 5}),
        free_memory=lambda: "free",
        table=lambda *_: "",
    )
    monkeypatch.setattr(train, "memory", memory)
    facts = {"dtype": "float32", "attn_implementation": "eager", "threads": 2}
    monkeypatch.setattr(train.environment, "describe", lambda config: facts | {"max_tokens": config.train.max_tokens})
    assert train.fit_memory(smoke, rows, 7) is fitting
    assert asked == [(smoke, rows, 7), (smoke, [{"row": 1}], 7, 3)]
    assert json.loads((smoke.run_dir / "environment.json").read_text()) == facts | {
        "max_tokens": 256,
        "memory_estimate_bytes": {"adapter": 5},
        "train": {"max_tokens": 256, "gradient_checkpointing": False},
    }


def test_saved_adapter_folder(smoke, tiny_copy):
    """PEFT's weights and config, the tokenizer's files as the base model's folder has them, the card, and nothing else."""
    word_tokenizer().save_pretrained(smoke.model_dir)
    write_json(smoke.model_dir / "config.json", {})
    write_json(smoke.adapter_dir / "left_over.json", {})
    torch.manual_seed(0)
    model = get_peft_model(tiny_copy, LoraConfig(r=2, target_modules=["qkv_proj", "down_proj", "o_proj"]))
    train.save_adapter(model, smoke, "the card")
    folder = smoke.adapter_dir
    assert {file.name for file in folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
    }
    assert (folder / "README.md").read_text() == "the card"
    assert (folder / "tokenizer.json").read_bytes() == (smoke.model_dir / "tokenizer.json").read_bytes()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "o_proj", "qkv_proj"]
