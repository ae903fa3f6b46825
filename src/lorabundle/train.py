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
import subprocess
import sys
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, PrinterCallback, ProgressCallback, TrainerState, set_seed
from trl import SFTConfig, SFTTrainer

from lorabundle import artifacts, card, checkpoints, config, memory, modeling, numerics, runinfo, scoring, step
from lorabundle.config import Config
from lorabundle.errors import AdapterError
from lorabundle.fused import unfuse
from lorabundle.journal import Journal
from lorabundle.reload import plain_logits
from lorabundle.stage import Artifacts, run_stage

log = logging.getLogger("lorabundle.train")

DATA_FIRST = "Run `make data` first."


class StepSampler(torch.utils.data.Sampler):
    """Random optimizer steps; within each, rows in order of length, so that micro-batches need little padding.

    The loss of a step is divided by the step's response tokens, so the order inside a step does not change it. (Grouping
    by length across steps, as transformers offers, makes each step's rows alike and the loss jump from step to step.)
    """

    def __init__(self, lengths: list[int], rows_per_step: int, seed: int):
        self.lengths, self.rows_per_step, self.seed, self.epoch = lengths, rows_per_step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Each epoch has an order of its own; called by accelerate's data loader."""
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order), self.rows_per_step):
            yield from sorted(order[start : start + self.rows_per_step], key=lambda row: self.lengths[row])


class LoraTrainer(SFTTrainer):
    """`SFTTrainer` with a token-weighted validation loss and checkpoints that are known to be whole."""

    def __init__(self, *, fingerprint: str, val_rows: list[dict], max_tokens: int, shared: int, **kwargs):
        adapter = {name: value.data for name, value in kwargs["model"].named_parameters() if value.requires_grad}
        super().__init__(**kwargs)
        # Over a 4-bit base TRL has rounded them to bfloat16, which loses small updates
        for name, value in adapter.items():
            self.model.get_parameter(name).data = value
        self.fingerprint = fingerprint
        self.val_rows = val_rows
        self.tokens_seen = 0
        self.max_tokens = max_tokens
        self.shared = shared
        step.fuse(self.model)

    def _get_train_sampler(self, train_dataset=None) -> StepSampler:
        rows_per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return StepSampler([len(ids) for ids in self.train_dataset["input_ids"]], rows_per_step, self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """`step.backward` in place of TRL's padded forward pass; the tokens seen are the rows' own, padding excluded."""
        model.train()
        rows = step.unpadded(inputs)
        self.tokens_seen += sum(len(row["input_ids"]) for row in rows)
        return step.backward(model, rows, self.shared, self.max_tokens, int(num_items_in_batch))

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Validation loss in nats a response token. (transformers' own averages the batches' means.)"""
        self.model.eval()
        scores = scoring.score_responses(self.model, self.val_rows)
        metrics = {"eval_loss": scoring.mean_loss(scores)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the running token count, so that it is in the state that a checkpoint keeps."""
        super().log(logs | {"tokens": self.tokens_seen}, *args, **kwargs)

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: the adapter gets one card, at the end, with what is known then."""

    def _save_checkpoint(self, *args, **kwargs) -> None:
        super()._save_checkpoint(*args, **kwargs)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        checkpoints.seal(folder, self.fingerprint)


def sft_config(run_config: Config, folder: Path) -> SFTConfig:
    """The run's settings in TRL's form, with every default that matters here stated."""
    settings = run_config.train
    return SFTConfig(
        output_dir=str(folder),
        **settings.model_dump(exclude={"max_tokens", "fit"}),
        seed=run_config.seed,
        use_cpu=True,
        bf16=False,  # no autocast: the step computes in the base weights' dtype, and adapter weights stay float32
        optim="adamw_torch_fused",
        max_length=None,  # preprocess has cut the rows and counted them
        dataloader_pin_memory=False,
        eval_strategy="steps",
        save_strategy="steps",
        logging_nan_inf_filter=False,  # show a divergence instead of averaging it away
        disable_tqdm=True,  # the journal has a bar of its own
        report_to="none",
    )


def reload_in_new_process(run_config: Config, adapter: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> float:
    """Load the saved adapter in a fresh interpreter and compare its logits with those of the trained model.

    Returns the largest absolute difference.

    Raises:
        AdapterError: it does not load, or its logits are not those of the trained model.
    """
    output = adapter.with_name(".reload.safetensors")
    model = run_config.model
    command = [sys.executable, "-m", "lorabundle.reload", str(run_config.model_dir), str(adapter), str(output)]
    command += [str(logits.dtype).removeprefix("torch."), modeling.resolve_attention(model.attn_implementation)]
    command += [str(model.load_in_4bit), ",".join(map(str, input_ids[0].tolist()))]
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0:
            reason = " ".join(finished.stderr.strip().splitlines()[-1:]) or "it said nothing; was it out of memory?"
            raise AdapterError(
                f"The adapter just saved in {adapter} does not load in a new process (exit code {finished.returncode}): {reason}"
            )
        difference = (load_file(output)["logits"] - logits).abs().max().item()
    finally:
        output.unlink(missing_ok=True)
    relative = 1e-4 if logits.dtype is torch.float32 else 2e-2  # what rounding explains; measured: 0.0
    tolerance = logits.float().abs().max().item() * relative
    if not difference <= tolerance:
        raise AdapterError(
            f"The adapter just saved in {adapter} gives other logits in a new process: they differ by up to {difference:.3g}, "
            f"and {tolerance:.3g} is what rounding explains. Please report this with the run's log."
        )
    return difference


def largest_rows(run_config: Config, rows: Dataset, shared: int) -> tuple[list[dict], int, int]:
    """The rows of the training's largest forward pass, how many tokens they share, and how many sizes of passes there are."""
    lengths, train = [len(ids) for ids in rows["input_ids"]], run_config.train
    rows_per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    order = StepSampler(lengths, rows_per_step, run_config.seed)
    trained = islice(order, rows_per_step * train.max_steps if train.max_steps > 0 else None)
    largest, sizes = memory.largest_pass(lengths, trained, shared, train)
    return rows.select(largest).to_list(), shared, sizes


def run(run_config: Config) -> Artifacts:
    """Train, or go on training, and save the adapter."""
    numerics.prepare(run_config)
    manifest = artifacts.read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    rows = {n: load_from_disk(config.PROCESSED / n).select_columns(["input_ids", "labels"]) for n in ("train", "val")}
    tokenizer = modeling.load_tokenizer(run_config.model_dir)
    modeling.check_unchanged(run_config.model_dir)
    modeling.check_architecture(run_config.model_dir)
    settings = AutoConfig.from_pretrained(run_config.model_dir)
    shared = step.sharable_start(settings, run_config.lora.lora_dropout, rows["train"])
    asked = run_config
    run_config, needed = memory.fit(asked, *largest_rows(asked, rows["train"], shared))
    log.info("memory, reckoned from shapes:\n%s", memory.table(needed))
    decided = run_config.train.model_dump(
        include={"max_tokens", "gradient_checkpointing"}
    )  # by the memory that is free
    facts = runinfo.environment(run_config) | {"memory_estimate_bytes": needed, "train": decided}
    artifacts.write_json(run_config.run_dir / "environment.json", facts)

    set_seed(run_config.seed)  # LoRA's A matrices are drawn when the adapter is attached
    model = modeling.attach_lora(modeling.load_base(run_config), run_config)
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
    save_adapter(trainer.model, run_config, card.document(asked, manifest, val_loss))
    input_ids = torch.tensor([rows["val"][0]["input_ids"]])
    unfuse(trainer.model)  # the new process has PEFT's layers
    logits = plain_logits(trainer.model.eval(), input_ids)
    del trainer, model  # the new process needs the memory
    gc.collect()
    difference = reload_in_new_process(run_config, run_config.adapter_dir, input_ids, logits)
    log.info("adapter reloaded in a new process: largest logit difference %g", difference)
    artifacts.write_json(folder / checkpoints.FINISHED, {"fingerprint": fingerprint})
    return Artifacts(
        inputs=[run_config.model_dir, config.PROCESSED / "train", config.PROCESSED / "val"],
        outputs=[
            run_config.adapter_dir,
            *(run_config.run_dir / name for name in ("train_log.jsonl", "environment.json")),
        ],
    )


def save_adapter(model: PeftModel, run_config: Config, model_card: str) -> None:
    """Write `adapter/` whole: weights and config in PEFT's format, the base model's tokenizer, and a model card."""
    with artifacts.atomic_dir(run_config.adapter_dir) as folder:
        # "auto" would ask the hub whether the base model's vocabulary has changed
        model.save_pretrained(folder, save_embedding_layers=False)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # a set in PEFT, whose order changes from process to process
        artifacts.write_json(folder / "adapter_config.json", settings)
        for file in (run_config.model_dir / name for name in config.TOKENIZER_FILES):
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        (folder / "README.md").write_text(model_card, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_stage("train", run))
