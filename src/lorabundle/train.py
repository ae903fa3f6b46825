"""Fine-tune a LoRA adapter with TRL's `SFTTrainer`, on the CPU.

Reads `data/models/<name>/` and `data/processed/{train,val}/`. Writes, below `outputs/<run>/`, `checkpoints/` on a schedule,
`train_log.jsonl`, `environment.json`, and at the end `adapter/`, which a new process then reloads and compares.

Run as: python -m lorabundle.train --config config/default.yaml
After an interruption the same command goes on from the last complete checkpoint.
"""

import gc
import json
import logging
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from datasets import load_from_disk
from peft import PeftModel
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState, set_seed
from trl import SFTConfig, SFTTrainer

from lorabundle import artifacts, config, modeling, runinfo, scoring
from lorabundle.artifacts import sha256_bytes, sha256_file
from lorabundle.config import Config, dump_yaml
from lorabundle.errors import AdapterError, DivergenceError
from lorabundle.reload import plain_logits
from lorabundle.stage import Artifacts, run_stage

log = logging.getLogger("lorabundle.train")

COMPLETE = "complete.json"  # written last into a checkpoint: one without it was cut short
FINISHED = "finished.json"  # beside the checkpoints once training is over: the next run starts afresh
SECTIONS = {"seed", "model", "lora", "train"}  # of the config: what decides the course of training
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

    def __init__(self, *, fingerprint: str, val_rows: list[dict], **kwargs):
        super().__init__(**kwargs)
        self.fingerprint = fingerprint
        self.val_rows = val_rows
        self.tokens_seen = 0

    def _get_train_sampler(self, train_dataset=None) -> StepSampler:
        rows_per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return StepSampler([len(ids) for ids in self.train_dataset["input_ids"]], rows_per_step, self.args.seed)

    def training_step(self, model, inputs, *args, **kwargs):
        """Count the tokens that go through the model, padding excluded."""
        self.tokens_seen += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Validation loss in nats a response token. (transformers' own averages the batches' means.)"""
        self.model.eval()
        scores = scoring.score_responses(self.model, self.val_rows, self.args.per_device_eval_batch_size)
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
        files = {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.name != COMPLETE}
        artifacts.write_json(folder / COMPLETE, {"fingerprint": self.fingerprint, "files": files})


class Journal(TrainerCallback):
    """Write `train_log.jsonl`, show progress, and stop a run that diverges."""

    def __init__(self, path: Path):
        self.path = path
        self.step_seconds = 0.0
        self.step_started = 0.0
        self.tokens_logged = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the progress bar; tqdm leaves it off when nobody watches a terminal."""
        logged = [entry["tokens"] for entry in state.log_history if "tokens" in entry]
        self.tokens_logged = logged[-1] if logged else 0
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None, dynamic_ncols=True)
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_step_begin(self, args, state, control, **kwargs):
        """Time the steps alone, without validation and saving."""
        self.step_started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Advance."""
        self.step_seconds += time.monotonic() - self.step_started
        self.bar.update(1)

    def on_log(self, args, state, control, logs, **kwargs):
        """Rewrite the journal from the trainer's history, which survives a resume."""
        entry = state.log_history[-1]
        for name in ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(entry.get(name, 0.0)):
                raise DivergenceError(
                    f"{name} is {entry[name]} at step {state.global_step}: training has diverged. Lower "
                    f"train.learning_rate (now {args.learning_rate}) or raise train.warmup_steps, then run again."
                )
        if "loss" in entry:
            entry["tokens_per_second"] = round((entry["tokens"] - self.tokens_logged) / self.step_seconds, 1)
            self.tokens_logged, self.step_seconds = entry["tokens"], 0.0
            self._show(state, entry)
        elif "eval_loss" in entry and self.bar.disable:
            log.info("step %d/%d  validation loss %.4f", state.global_step, state.max_steps, entry["eval_loss"])
        artifacts.write_jsonl(self.path, journal_rows(state.log_history))

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()

    def _show(self, state, entry: dict) -> None:
        if not self.bar.disable:
            self.bar.set_postfix_str(f"loss {entry['loss']:.3f}")
            return
        seconds = (time.monotonic() - self.began) / (state.global_step - self.first_step)
        log.info(
            "step %d/%d  loss %.4f  learning rate %.2e  %.0f tokens/s  %.1f min left",
            *(state.global_step, state.max_steps, entry["loss"], entry["learning_rate"], entry["tokens_per_second"]),
            seconds * (state.max_steps - state.global_step) / 60,
        )


def journal_rows(history: list[dict]) -> list[dict]:
    """The trainer's history as rows of `train_log.jsonl`: one per logging step, one per validation."""
    train = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second")
    val = ("step", "epoch", "eval_loss")
    chosen = [
        (entry, train if "loss" in entry else val) for entry in history if "loss" in entry or "eval_loss" in entry
    ]
    return [{key: entry[key] for key in keys if key in entry} for entry, keys in chosen]


def training_fingerprint(run_config: Config, manifest: dict) -> str:
    """Hex sha256 of all that decides the course of training; a checkpoint is resumed only under the same one."""
    settings = run_config.model_dump(include=SECTIONS)
    provenance = artifacts.read_json(run_config.model_dir / "provenance.json", modeling.FETCH_FIRST)
    code = [sha256_file(Path(module.__file__)) for module in (modeling, scoring, sys.modules[__name__])]
    dtype = modeling.resolve_dtype(run_config.model.dtype)
    software = sha256_file(config.RUNTIME_LOCK)
    return sha256_bytes(repr((settings, manifest, provenance, code, str(dtype), software)).encode())


def last_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of the same training; the folder is cleared when there is nothing to go on from."""
    if not (folder / FINISHED).exists():
        for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
            if not (checkpoint / COMPLETE).exists():
                log.warning("%s was cut short while being written; ignored", checkpoint)
                continue
            complete = artifacts.read_json(checkpoint / COMPLETE, "Delete the checkpoint's folder.")
            if complete["fingerprint"] != fingerprint:
                log.warning("%s belongs to other settings, data or code; training starts afresh", checkpoint)
                break
            if any(
                not (checkpoint / n).is_file() or sha256_file(checkpoint / n) != s for n, s in complete["files"].items()
            ):
                log.warning("%s is damaged; ignored", checkpoint)
                continue
            return checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    return None


def sft_config(run_config: Config, checkpoints: Path) -> SFTConfig:
    """The run's settings in TRL's form, with every default that matters here stated."""
    settings = run_config.train
    return SFTConfig(
        output_dir=str(checkpoints),
        **settings.model_dump(),
        seed=run_config.seed,
        use_cpu=True,
        bf16=modeling.resolve_dtype(run_config.model.dtype) is torch.bfloat16,  # autocast; adapter weights stay float32
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
    command = [sys.executable, "-m", "lorabundle.reload", str(run_config.model_dir), str(adapter), str(output)]
    command += [str(logits.dtype).removeprefix("torch."), run_config.model.attn_implementation]
    command += [",".join(map(str, input_ids[0].tolist()))]
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


def model_card(run_config: Config, manifest: dict, val_loss: float) -> str:
    """README.md of the adapter's folder: what it is, what it was trained on, how to load it."""
    train = manifest["splits"]["train"]
    return f"""---
base_model: {run_config.model.name}
library_name: peft
tags: [lora, phi3]
---
# LoRA adapter of run {run_config.run}

An adapter (rank {run_config.lora.r}) for `{run_config.model.name}`, trained on {train["examples"]} examples
({train["response_tokens"]} response tokens) from {manifest["source"]}. Validation loss at the end: {val_loss:.4f} nats a token.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{run_config.model_dir}")
model = PeftModel.from_pretrained(base, "{run_config.adapter_dir}")
tokenizer = AutoTokenizer.from_pretrained("{run_config.adapter_dir}")
```

Settings of the training:

```yaml
{dump_yaml(run_config.model_dump(include=SECTIONS))}```
"""


def run(run_config: Config) -> Artifacts:
    """Train, or go on training, and save the adapter."""
    manifest = artifacts.read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    rows = {n: load_from_disk(config.PROCESSED / n).select_columns(["input_ids", "labels"]) for n in ("train", "val")}
    tokenizer = modeling.load_tokenizer(run_config.model_dir)
    artifacts.write_json(run_config.run_dir / "environment.json", runinfo.environment(run_config))

    set_seed(run_config.seed)  # LoRA's A matrices are drawn when the adapter is attached
    model = modeling.attach_lora(modeling.load_base(run_config), run_config)
    trainable, total = model.get_nb_trainable_parameters()
    log.info("training %.2f M of %.1f M parameters on %d examples", trainable / 1e6, total / 1e6, len(rows["train"]))

    checkpoints = run_config.run_dir / "checkpoints"
    fingerprint = training_fingerprint(run_config, manifest)
    checkpoint = last_checkpoint(checkpoints, fingerprint)
    trainer = LoraTrainer(
        model=model,
        args=sft_config(run_config, checkpoints),
        train_dataset=rows["train"],
        eval_dataset=rows["val"],
        processing_class=tokenizer,
        callbacks=[Journal(run_config.run_dir / "train_log.jsonl")],
        fingerprint=fingerprint,
        val_rows=rows["val"].to_list(),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        trainer.tokens_seen = max(entry.get("tokens", 0) for entry in state.log_history)
    if (
        checkpoint and state.global_step >= state.max_steps
    ):  # stopped after the last step: the trainer would take one more
        trainer.state = state
        trainer._load_from_checkpoint(str(checkpoint))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    validations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    is_last = bool(validations) and validations[-1]["step"] == trainer.state.global_step
    val_loss = validations[-1]["eval_loss"] if is_last else trainer.evaluate()["eval_loss"]
    save_adapter(trainer.model, tokenizer, run_config, model_card(run_config, manifest, val_loss))
    input_ids = torch.tensor([rows["val"][0]["input_ids"]])
    logits = plain_logits(trainer.model.eval(), input_ids)
    del trainer, model  # the new process needs the memory
    gc.collect()
    difference = reload_in_new_process(run_config, run_config.adapter_dir, input_ids, logits)
    log.info("adapter reloaded in a new process: largest logit difference %g", difference)
    artifacts.write_json(checkpoints / FINISHED, {"fingerprint": fingerprint})
    return Artifacts(
        inputs=[run_config.model_dir, config.PROCESSED / "train", config.PROCESSED / "val"],
        outputs=[
            run_config.adapter_dir,
            *(run_config.run_dir / name for name in ("train_log.jsonl", "environment.json")),
        ],
    )


def save_adapter(model: PeftModel, tokenizer, run_config: Config, card: str) -> None:
    """Write `adapter/` whole: weights and config in PEFT's format, the tokenizer, and a model card."""
    with artifacts.atomic_dir(run_config.adapter_dir) as folder:
        # "auto" would ask the hub whether the base model's vocabulary has changed
        model.save_pretrained(folder, save_embedding_layers=False)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # a set in PEFT, whose order changes from process to process
        artifacts.write_json(folder / "adapter_config.json", settings)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_stage("train", run))
