"""The trainer: order of rows, validation loss, tokens seen, sealed checkpoints, and the largest pass of a training."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from lorabundle.compute.load import attach_lora, load_base
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.training import checkpoints
from lorabundle.training.step import Pass
from lorabundle.training.trainer import LoraTrainer, StepSampler, sft_config, training_passes
from tests.conftest import word_tokenizer


def row(length: int, num_response_tokens: int = 2) -> dict:
    ids = [2 + place % 14 for place in range(length)]
    return {"input_ids": ids, "labels": [-100] * (length - num_response_tokens) + ids[-num_response_tokens:]}


def test_rows_of_a_step_are_sorted_and_steps_are_random():
    sampler = StepSampler([5, 1, 4, 2, 3, 9, 7, 8], rows_per_step=4, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(8))
    for rows in (order[:4], order[4:]):
        lengths = [sampler.lengths[row] for row in rows]
        assert lengths == sorted(lengths)
    assert list(sampler) == order
    assert list(StepSampler(sampler.lengths, rows_per_step=4, seed=1)) != order
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_settings_in_trls_form(smoke, tmp_path):
    arguments = sft_config(smoke, tmp_path)
    settings = smoke.train.model_dump(exclude={"max_tokens", "fit"})
    assert {name: getattr(arguments, name) for name in settings} == settings
    assert (arguments.seed, arguments.output_dir) == (smoke.seed, str(tmp_path))
    assert (arguments.use_cpu, arguments.bf16, arguments.max_length) == (True, False, None)
    assert arguments.logging_nan_inf_filter is False


def test_passes_are_those_of_the_steps_that_are_taken(saved_tiny):
    """One step of two rows, each in its own pass: rows that are never reached do not count."""
    rows = Dataset.from_list([row(length) for length in (10, 100, 40, 120)])
    settings = ["train.per_device_train_batch_size=2", "train.max_tokens=1"]
    first = list(StepSampler([10, 100, 40, 120], rows_per_step=2, seed=42))[:2]
    one_step = training_passes(saved_tiny(*settings, "train.max_steps=1"), rows, shared_tokens=3)
    assert one_step == [Pass(len(rows[index]["input_ids"]) - 1, [index]) for index in first]
    epoch = training_passes(saved_tiny(*settings, "train.max_steps=-1"), rows, shared_tokens=3)
    assert sorted(one.tokens for one in epoch) == [9, 39, 99, 119]


@pytest.fixture
def trainer(saved_tiny) -> LoraTrainer:
    """Over a bfloat16 base, with three validation rows of different lengths."""
    config = saved_tiny("model.dtype=bfloat16", "train.max_steps=2", "train.save_steps=1", "train.eval_steps=2")
    torch.manual_seed(0)
    return LoraTrainer(
        model=attach_lora(load_base(config), config),
        args=sft_config(config, Path("checkpoints")),
        train_dataset=Dataset.from_list([row(length) for length in (6, 8, 10, 12, 14, 16, 18, 20)]),
        eval_dataset=Dataset.from_list([row(6)]),
        processing_class=word_tokenizer(),
        fingerprint="f" * 64,
        val_rows=[row(6, 1), row(12, 8), row(9, 3)],
        max_tokens=1024,
        shared_tokens=0,
    )


def test_validation_loss_weights_tokens_not_rows(trainer):
    metrics = trainer.evaluate()
    scores = score_responses(trainer.model.eval(), trainer.val_rows)
    assert [score.tokens for score in scores] == [1, 8, 3]
    assert metrics == {"eval_loss": mean_loss(scores)}
    assert metrics["eval_loss"] != pytest.approx(sum(score.nats / score.tokens for score in scores) / 3, rel=1e-3)


def test_checkpoints_are_sealed_and_keep_the_tokens_seen(trainer):
    """Two steps of four rows: all eight, of 104 tokens, padding excluded."""
    trainer.train()
    assert trainer.tokens_seen == 6 + 8 + 10 + 12 + 14 + 16 + 18 + 20
    for step in (1, 2):
        folder = Path(f"checkpoints/checkpoint-{step}")
        complete = json.loads((folder / checkpoints.COMPLETE).read_text())
        assert complete["fingerprint"] == "f" * 64
        assert set(complete["files"]) == {file.name for file in folder.iterdir()} - {checkpoints.COMPLETE}
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        assert history[-1]["tokens"] == (trainer.tokens_seen if step == 2 else history[0]["tokens"])
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
