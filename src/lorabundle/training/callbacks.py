"""What a training reports while it runs: `train_log.jsonl`, a line or a progress bar on the console, an error if it diverges."""

import logging
import math
import time
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback

from lorabundle.core.errors import DivergenceError
from lorabundle.core.files import write_jsonl
from lorabundle.training.duration import Duration

log = logging.getLogger("lorabundle.train")

TRAIN_KEYS = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second")
VAL_KEYS = ("step", "epoch", "eval_loss")


class TrainingLog(TrainerCallback):
    """Write `train_log.jsonl`, show progress, correct the expected time after the first steps, and stop a run that diverges."""

    def __init__(self, path: Path, expected: Duration):
        self.path = path
        self.expected = expected
        self.is_corrected = False
        self.step_seconds = 0.0  # of the steps since the last logged loss
        self.step_started = 0.0
        self.tokens_logged = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the progress bar. tqdm disables it if stderr is not a terminal."""
        logged = [entry["tokens"] for entry in state.log_history if "tokens" in entry]
        self.tokens_logged = logged[-1] if logged else 0
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None, dynamic_ncols=True)
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the clock: only steps are timed, not validation and saving."""
        self.step_started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock. The last step's training loss is always logged, even if `logging_steps` does not divide its number."""
        self.step_seconds += time.monotonic() - self.step_started
        self.bar.update(1)
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args, state, control, logs, **kwargs):
        """Rewrite the log from the trainer's history, which a checkpoint keeps."""
        entry = state.log_history[-1]
        for name in ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(entry.get(name, 0.0)):
                raise DivergenceError(
                    f"{name} is {entry[name]} at step {state.global_step}: training has diverged. Lower "
                    f"train.learning_rate (now {args.learning_rate}) or raise train.warmup_steps, then run again."
                )
        if "loss" in entry:
            rate = (entry["tokens"] - self.tokens_logged) / self.step_seconds
            entry["tokens_per_second"] = round(rate, 1)
            self.tokens_logged, self.step_seconds = entry["tokens"], 0.0
            self._show(state, entry)
            if not self.is_corrected:
                log.info("estimated time, corrected: %s", self.expected.corrected(rate))
                self.is_corrected = True
        elif "eval_loss" in entry and self.bar.disable:
            log.info("step %d/%d  validation loss %.4f", state.global_step, state.max_steps, entry["eval_loss"])
        write_jsonl(self.path, log_rows(state.log_history))

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()

    def _show(self, state, entry: dict) -> None:
        if not self.bar.disable:
            self.bar.set_postfix_str(f"loss {entry['loss']:.3f}")
            return
        seconds_per_step = (time.monotonic() - self.began) / (state.global_step - self.first_step)
        minutes_left = seconds_per_step * (state.max_steps - state.global_step) / 60
        progress = f"step {state.global_step}/{state.max_steps}  loss {entry['loss']:.4f}"
        rates = f"learning rate {entry['learning_rate']:.2e}  {entry['tokens_per_second']:.0f} tokens/s"
        log.info("%s  %s  %.1f min left", progress, rates, minutes_left)


def log_rows(history: list[dict]) -> list[dict]:
    """The trainer's history as rows of `train_log.jsonl`: one for each logged training loss, one for each validation."""
    rows = []
    for entry in history:
        if "loss" in entry or "eval_loss" in entry:
            keys = TRAIN_KEYS if "loss" in entry else VAL_KEYS
            rows.append({key: entry[key] for key in keys if key in entry})
    return rows
