"""Fine-tune a LoRA adapter with TRL's `SFTTrainer`, on the CPU.

Reads `data/models/<name>/` and `data/processed/{train,val}/`. Writes, below `outputs/<run>/`, `checkpoints/` on a schedule,
`train_log.jsonl`, `environment.json`, and at the end `adapter/`, which a new process then reloads and compares.

Run as: python -m lorabundle.train --config config/default.yaml
After an interruption the same command goes on from the last complete checkpoint.
"""

import gc
import json
import logging
import shutil
import sys

import torch
from datasets import load_from_disk
from peft import PeftModel
from transformers import AutoConfig, PrinterCallback, ProgressCallback, TrainerState, set_seed

from lorabundle.compute import numerics
from lorabundle.compute.fused import unfuse
from lorabundle.compute.load import attach_lora, load_base
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_dir, read_json, write_json
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.model.convert import check_architecture, check_unchanged, load_tokenizer
from lorabundle.training import checkpoints, environment, memory, step
from lorabundle.training.callbacks import Journal
from lorabundle.training.model_card import model_card
from lorabundle.training.reload_check import plain_logits, reload_in_new_process
from lorabundle.training.trainer import LoraTrainer, largest_rows, sft_config

log = logging.getLogger("lorabundle.train")

DATA_FIRST = "Run `make data` first."


def run(run_config: Config) -> Artifacts:
    """Train, or go on training, and save the adapter."""
    numerics.prepare(run_config)
    manifest = read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    rows = {n: load_from_disk(config.PROCESSED / n).select_columns(["input_ids", "labels"]) for n in ("train", "val")}
    tokenizer = load_tokenizer(run_config.model_dir)
    check_unchanged(run_config.model_dir)
    check_architecture(run_config.model_dir)
    settings = AutoConfig.from_pretrained(run_config.model_dir)
    shared = step.sharable_start(settings, run_config.lora.lora_dropout, rows["train"])
    asked = run_config
    run_config, needed = memory.fit(asked, *largest_rows(asked, rows["train"], shared))
    log.info("memory, reckoned from shapes:\n%s", memory.table(needed))
    decided = run_config.train.model_dump(
        include={"max_tokens", "gradient_checkpointing"}
    )  # by the memory that is free
    facts = environment.describe(run_config) | {"memory_estimate_bytes": needed, "train": decided}
    write_json(run_config.run_dir / "environment.json", facts)

    set_seed(run_config.seed)  # LoRA's A matrices are drawn when the adapter is attached
    model = attach_lora(load_base(run_config), run_config)
    trainable, total = model.get_nb_trainable_parameters()
    log.info("training %.2f M of %.1f M parameters on %d examples", trainable / 1e6, total / 1e6, len(rows["train"]))

    folder = run_config.run_dir / "checkpoints"
    fingerprint = checkpoints.training_fingerprint(run_config, manifest)
    checkpoint = checkpoints.last_checkpoint(folder, fingerprint)
    trainer = LoraTrainer(
        model=model,
        args=sft_config(run_config, folder),
        train_dataset=rows["train"],
        eval_dataset=rows["val"],
        processing_class=tokenizer,
        callbacks=[Journal(run_config.run_dir / "train_log.jsonl")],
        fingerprint=fingerprint,
        val_rows=rows["val"].to_list(),
        max_tokens=run_config.train.max_tokens,
        shared=shared,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        trainer.tokens_seen = max(entry.get("tokens", 0) for entry in state.log_history)
    # Stopped after the last step: the trainer would take one more
    if checkpoint and state.global_step >= state.max_steps:
        trainer.state = state
        trainer._load_from_checkpoint(str(checkpoint))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    validations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    is_last = bool(validations) and validations[-1]["step"] == trainer.state.global_step
    val_loss = validations[-1]["eval_loss"] if is_last else trainer.evaluate()["eval_loss"]
    save_adapter(trainer.model, run_config, model_card(asked, manifest, val_loss))
    input_ids = torch.tensor([rows["val"][0]["input_ids"]])
    unfuse(trainer.model)  # the new process has PEFT's layers
    logits = plain_logits(trainer.model.eval(), input_ids)
    del trainer, model  # the new process needs the memory
    gc.collect()
    difference = reload_in_new_process(run_config, run_config.adapter_dir, input_ids, logits)
    log.info("adapter reloaded in a new process: largest logit difference %g", difference)
    write_json(folder / checkpoints.FINISHED, {"fingerprint": fingerprint})
    return Artifacts(
        inputs=[run_config.model_dir, config.PROCESSED / "train", config.PROCESSED / "val"],
        outputs=[
            run_config.adapter_dir,
            *(run_config.run_dir / name for name in ("train_log.jsonl", "environment.json")),
        ],
    )


def save_adapter(model: PeftModel, run_config: Config, model_card: str) -> None:
    """Write `adapter/` whole: weights and config in PEFT's format, the base model's tokenizer, and a model card."""
    with atomic_dir(run_config.adapter_dir) as folder:
        # "auto" would ask the hub whether the base model's vocabulary has changed
        model.save_pretrained(folder, save_embedding_layers=False)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # a set in PEFT, whose order changes from process to process
        write_json(folder / "adapter_config.json", settings)
        for file in (run_config.model_dir / name for name in config.TOKENIZER_FILES):
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        (folder / "README.md").write_text(model_card, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_stage("train", run))
