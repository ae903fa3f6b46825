"""Fine-tune a LoRA adapter with TRL's `SFTTrainer`, on the CPU.

Reads `data/models/<name>/` and `data/processed/{train,val}/`. Writes, below `outputs/<run>/`, `checkpoints/` on a schedule,
`train_log.jsonl`, `environment.json`, and at the end `adapter/`, which a new process then loads and compares.

Run as: python -m lorabundle.train --config config/default.yaml
After an interruption the same command resumes from the last complete checkpoint.
"""

import gc
import json
import logging
import shutil
import sys
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from peft import PeftModel
from transformers import AutoConfig, PrinterCallback, ProgressCallback, TrainerState, set_seed

from lorabundle.compute import numerics, precision
from lorabundle.compute.fused import unfuse
from lorabundle.compute.load import attach_lora, load_base
from lorabundle.core import config, machine
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_dir, read_json, write_json
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.model.architecture import check_architecture, check_unchanged, load_tokenizer
from lorabundle.training import checkpoints, duration, environment, memory, step
from lorabundle.training.callbacks import TrainingLog
from lorabundle.training.duration import Duration
from lorabundle.training.model_card import model_card
from lorabundle.training.reload_check import plain_logits, reload_in_new_process
from lorabundle.training.trainer import LoraTrainer, sft_config, training_passes

log = logging.getLogger("lorabundle.train")

DATA_FIRST = "Run `make data` first."


def run(requested: Config) -> Artifacts:
    """Train, or resume training, and save the adapter.

    `requested` is the config that the user gave; `fitting` is the one that the training uses, which may save memory.
    """
    numerics.prepare(requested)
    manifest = read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    check_unchanged(requested.model_dir)
    check_architecture(requested.model_dir)
    splits = {name: load_split(name) for name in ("train", "val", "test")}  # "test" only for the time estimate
    model_config = AutoConfig.from_pretrained(requested.model_dir)
    shared_tokens = step.count_sharable_tokens(model_config, requested.lora.lora_dropout, splits["train"])
    fitting = fit_memory(requested, splits["train"], shared_tokens)

    fingerprint = checkpoints.training_fingerprint(fitting, manifest)
    checkpoint = checkpoints.last_checkpoint(fitting, fingerprint)
    trainer = make_trainer(fitting, splits, shared_tokens, fingerprint)
    expected = estimate_time(trainer, fitting, splits, checkpoint)
    trainer.add_callback(TrainingLog(fitting.run_dir / "train_log.jsonl", expected))
    train_or_resume(trainer, checkpoint)
    save_adapter(trainer.model, fitting, model_card(requested, manifest, last_val_loss(trainer.state)))

    input_ids = torch.tensor([splits["val"][0]["input_ids"]])
    unfuse(trainer.model)  # the new process has PEFT's layers
    logits = plain_logits(trainer.model.eval(), input_ids)
    del trainer  # the new process needs the memory
    gc.collect()
    difference = reload_in_new_process(fitting, fitting.adapter_dir, input_ids, logits)
    log.info("adapter reloaded in a new process: largest logit difference %g", difference)
    checkpoints.mark_finished(fitting, fingerprint)
    written = [fitting.run_dir / name for name in ("train_log.jsonl", "environment.json")]
    return Artifacts(
        inputs=[fitting.model_dir, config.PROCESSED / "train", config.PROCESSED / "val"],
        outputs=[fitting.adapter_dir, *written],
    )


def load_split(name: str) -> Dataset:
    """A split's "input_ids" and "labels"."""
    return load_from_disk(config.PROCESSED / name).select_columns(["input_ids", "labels"])


def fit_memory(requested: Config, rows: Dataset, shared_tokens: int) -> Config:
    """The config to train with, which fits into the free memory. Writes `environment.json`.

    Raises:
        MemoryExhaustedError: there is none; the message says what to change.
    """
    largest, num_pass_sizes = memory.largest_pass(training_passes(requested, rows, shared_tokens))
    pass_rows = rows.select(largest).to_list()
    fitting, memory_estimate = memory.fit(requested, pass_rows, shared_tokens, num_pass_sizes)
    log.info("estimated memory:\n%s", memory.table(memory_estimate, memory.free_memory()))
    decided = fitting.train.model_dump(include={"max_tokens", "gradient_checkpointing"})  # by the free memory
    facts = environment.describe(fitting) | {"memory_estimate_bytes": memory_estimate, "train": decided}
    write_json(fitting.run_dir / "environment.json", facts)
    used = facts["attn_implementation"], facts["threads"], why_threads(facts["threads"])
    log.info("run %s: %s; %s attention, threads: %d (%s)", fitting.run, precision.resolve(fitting).reasons, *used)
    return fitting


def why_threads(number: int) -> str:
    """What decides the number of threads."""
    found = machine.threads()
    if number == found.amount:
        return found.origin
    return f"as THREADS or OMP_NUM_THREADS says; without it {found.amount}, {found.origin}"


def make_trainer(fitting: Config, splits: dict[str, Dataset], shared_tokens: int, fingerprint: str) -> LoraTrainer:
    """The base model with a new adapter, in a trainer that logs as we do."""
    tokenizer = load_tokenizer(fitting.model_dir)
    set_seed(fitting.seed)  # attaching the adapter draws LoRA's A matrices
    model = attach_lora(load_base(fitting), fitting)
    trainable, total = model.get_nb_trainable_parameters()
    num_examples = len(splits["train"])
    log.info("training %.2f M of %.1f M parameters on %d examples", trainable / 1e6, total / 1e6, num_examples)
    trainer = LoraTrainer(
        model=model,
        args=sft_config(fitting, checkpoints.folder(fitting)),
        train_dataset=splits["train"],
        eval_dataset=splits["val"],
        processing_class=tokenizer,
        fingerprint=fingerprint,
        val_rows=splits["val"].to_list(),
        max_tokens=fitting.train.max_tokens,
        shared_tokens=shared_tokens,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def estimate_time(
    trainer: LoraTrainer, fitting: Config, splits: dict[str, Dataset], checkpoint: Path | None
) -> Duration:
    """How long the rest of the training and the evaluation will take, and what would shorten that if it is long."""
    expected = duration.estimate(
        trainer.model,
        trainer.processing_class,
        fitting,
        splits,
        training_passes(fitting, splits["train"], trainer.shared_tokens),
        trainer.shared_tokens,
        first_step=checkpoints.step_of(checkpoint) if checkpoint else 0,
    )
    log.info("estimated time: %s", expected)
    for line in duration.advice(fitting, expected, len(splits["train"])):
        log.info("%s", line)
    return expected


def train_or_resume(trainer: LoraTrainer, checkpoint: Path | None) -> None:
    """Train to the last step, from the checkpoint if there is one."""
    if checkpoint is None:
        trainer.train()
        return
    log.info("resuming from %s", checkpoint)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.tokens_seen = max(entry.get("tokens", 0) for entry in state.log_history)
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:  # stopped after the last step: `train` would take another one
        trainer.state = state
        trainer._load_from_checkpoint(str(checkpoint))


def last_val_loss(state: TrainerState) -> float:
    """Validation loss after the last step, in nats a response token. The trainer always validates there."""
    return next(entry["eval_loss"] for entry in reversed(state.log_history) if "eval_loss" in entry)


def save_adapter(model: PeftModel, run_config: Config, card: str) -> None:
    """Write `adapter/` atomically: weights and config in PEFT's format, the base model's tokenizer, and the model card."""
    with atomic_dir(run_config.adapter_dir) as folder:
        # "auto" would ask the hub whether the base model's vocabulary has changed
        model.save_pretrained(folder, save_embedding_layers=False)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # a set in PEFT, whose order changes from process to process
        write_json(folder / "adapter_config.json", settings)
        for file in (run_config.model_dir / name for name in config.TOKENIZER_FILES):
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_stage("train", run))
