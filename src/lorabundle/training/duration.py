"""An estimate of how long training and evaluation will take, before the first step.

The loaded model does each kind of work on a few of its layers: a forward and backward pass of median size, the scoring of some
rows, some tokens of some answers. Two numbers of layers give the time of all layers, and the number of tokens the time of all rows.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median_low

import psutil
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorabundle.compute import cpu_probe, packing, precision
from lorabundle.compute.fused import fuse, unfuse
from lorabundle.compute.generate import generate
from lorabundle.compute.scoring import PASS_TOKENS, score_responses
from lorabundle.core.config import Config
from lorabundle.model.prompts import IGNORE_INDEX
from lorabundle.training import step
from lorabundle.training.step import Pass

LONG = 3600  # seconds from which the log says what would shorten it
SECONDS = 0.15  # a measurement takes as many layers as do their work in about this time, and at least three
NEW_TOKENS = 3, 9  # of an answer: the difference of their times is that of the tokens between them


@dataclass(frozen=True)
class Duration:
    """Seconds of a run's work.

    Attributes:
        start: of a process until its model is loaded: once before training, evaluation and the check of the saved adapter each.
        step: of an optimizer step, on average.
        num_steps: that are to be done.
        tokens_per_second: of the training rows' own tokens, in these steps.
        validation: of one validation.
        num_validations: that are to be done.
        scoring: of the test rows, by the base model and the fine-tuned one.
        answers: of their greedy answers, if the base model's are as long as they may be, and the fine-tuned one's as the references.
    """

    start: float
    step: float
    num_steps: int
    tokens_per_second: float
    validation: float
    num_validations: int
    scoring: float
    answers: float

    @property
    def training(self) -> float:
        """Of the stage, in seconds."""
        return 2 * self.start + self.num_steps * self.step + self.num_validations * self.validation

    @property
    def evaluation(self) -> float:
        """Of the stage, in seconds."""
        return self.start + self.scoring + self.answers

    def corrected(self, tokens_per_second: float) -> "Duration":
        """The same, if training goes at the measured rate, and everything else differs from the estimate as it does."""
        factor = self.tokens_per_second / tokens_per_second
        values = {name: factor * getattr(self, name) for name in ("step", "validation", "scoring", "answers")}
        return replace(self, tokens_per_second=tokens_per_second, **values)

    def __str__(self) -> str:
        return (
            f"training {spoken(self.training)} ({self.num_steps} steps of {self.step:.2g} s), "
            f"evaluation {spoken(self.evaluation)}"
        )


def spoken(seconds: float) -> str:
    """A duration as it is said: in seconds below two minutes, in hours from two hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def advice(run_config: Config, expected: Duration, num_examples: int) -> list[str]:
    """What would shorten a run of over an hour, with the time that it would save; nothing for a shorter one.

    Args:
        run_config: as it is trained with.
        expected: what it takes.
        num_examples: of the training split.
    """
    if expected.training + expected.evaluation < LONG:
        return []
    steps = run_config.train.max_steps
    fewer = f"train.max_steps={steps // 2}" if steps > 0 else f"data.max_train_examples={num_examples // 2}"
    shorter = f"evaluate.max_new_tokens={run_config.evaluate.max_new_tokens // 2}"
    lines = ["That is over an hour. These settings shorten it:"]
    lines += [f"  {fewer}: {spoken(expected.num_steps * expected.step / 2)} less"]
    lines += [f"  {shorter}: up to {spoken(expected.answers / 2)} less; long answers are cut off"]
    used, rates = precision.resolve(run_config), cpu_probe.decision()["gflops"]
    faster = rates["int8"] / rates[used.activation_dtype]
    if used.compute_dtype != "int8" and run_config.numerics == "fast" and faster > cpu_probe.CLEARLY:
        lines.append(
            f"  model.dtype=int8: its products are {faster:.1f} times as fast here; it changes results a little"
        )
    return lines


def estimate(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    run_config: Config,
    rows: dict[str, Dataset],
    passes: list[Pass],
    shared_tokens: int,
    first_step: int,
) -> Duration:
    """Time the model's work on samples. It is left as it was, in evaluation mode.

    Args:
        model: fused, as it is trained.
        tokenizer: its tokenizer.
        run_config: as it is trained with.
        rows: {"input_ids", "labels"} of "train", "val" and "test".
        passes: the forward passes of an epoch, or of `max_steps` if these are fewer.
        shared_tokens: number of tokens that all training rows start with.
        first_step: number of steps that were done before.
    """
    started = time.time() - psutil.Process().create_time()
    settings = run_config.train
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    seen = [row for one in passes for row in one.rows]
    steps_of_passes = -(-len(seen) // rows_per_step)
    num_steps = settings.max_steps
    if num_steps <= 0:
        num_steps = math.ceil(settings.num_train_epochs * steps_of_passes)  # as transformers counts them
    usual = median_low(passes)
    sample = [rows["train"][row] for row in usual.rows]

    def train() -> None:
        step.backward(model.train(), sample, shared_tokens, settings.max_tokens, num_response_tokens=1)

    with torch.random.fork_rng(devices=[]):  # dropout draws from it
        of_pass = of_all_layers(model, train)
    model.zero_grad(set_to_none=True)
    model.eval()
    of_step = of_pass * sum(one.tokens for one in passes) / usual.tokens / steps_of_passes
    lengths = [len(ids) for ids in rows["train"]["input_ids"]]
    tokens = sum(lengths[row] for row in seen) / steps_of_passes
    val_rows, test_rows = rows["val"].to_list(), rows["test"].to_list()
    unfuse(model)  # evaluation has PEFT's layers
    with model.disable_adapter():
        base = _scoring(model, test_rows), _answering(model, tokenizer, run_config, test_rows, is_tuned=False)
    tuned = _scoring(model, test_rows), _answering(model, tokenizer, run_config, test_rows, is_tuned=True)
    fuse(model)
    return Duration(
        start=started,
        step=of_step,
        num_steps=num_steps - first_step,
        tokens_per_second=tokens / of_step,
        validation=tuned[0] * _computed(val_rows) / _computed(test_rows),
        num_validations=-(-num_steps // settings.eval_steps) - first_step // settings.eval_steps,
        scoring=base[0] + tuned[0],
        answers=base[1] + tuned[1],
    )


def of_all_layers(model: PeftModel, work: Callable[[], object]) -> float:
    """Seconds of `work` with all layers of a model, from its times with one layer and with as many as take `SECONDS`."""
    base = model.get_base_model()
    num_layers = len(base.model.layers)
    several = min(3, num_layers)
    one, more = (_seconds(base, layers, work) for layers in (1, several))
    if several < num_layers and more < SECONDS:  # too short to be exact
        several = min(num_layers, math.ceil(several * SECONDS / more))
        more = _seconds(base, several, work)
    if several == num_layers:
        return more
    return one + max(0.0, more - one) * (num_layers - 1) / (several - 1)


def _seconds(base: PreTrainedModel, num_layers: int, work: Callable[[], object]) -> float:
    """Shorter of two times of `work` with the first layers only: the first time also generates code, other work only adds."""
    times = []
    with _first_layers(base, num_layers):
        for _ in range(2):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return min(times)


@contextmanager
def _first_layers(base: PreTrainedModel, number: int) -> Iterator[None]:
    layers = base.model.layers
    base.model.layers = layers[:number]
    try:
        yield
    finally:
        base.model.layers = layers


def _scoring(model: PeftModel, rows: list[dict]) -> float:
    """Seconds to score all rows."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    middle = ordered[len(rows) // 2 :]
    room, sample = PASS_TOKENS, []
    for row in middle:
        room -= len(row["input_ids"])
        sample += [row] if room >= 0 or not sample else []
    seconds = of_all_layers(model, lambda: score_responses(model, sample))
    return seconds * _computed(rows) / _computed(sample)


def _computed(rows: list[dict]) -> int:
    """Number of tokens that go through the model when rows are scored."""
    shared, lengths = packing.count_shared_tokens(rows), [len(row["input_ids"]) for row in rows]
    packs = packing.batches(lengths, shared, PASS_TOKENS)
    return sum(packing.count_tokens([lengths[row] for row in members], shared) for members in packs)


def _answering(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, run_config: Config, rows: list[dict], is_tuned: bool
) -> float:
    """Seconds to answer all rows: their prompts and then, at each step, the next token of a batch of answers."""
    most, batch_size = run_config.evaluate.max_new_tokens, run_config.evaluate.batch_size
    prompts = [
        row["input_ids"][: next(i for i, label in enumerate(row["labels"]) if label != IGNORE_INDEX)] for row in rows
    ]
    lengths = [
        min(most, len(row["input_ids"]) - len(prompt)) if is_tuned else most
        for row, prompt in zip(rows, prompts, strict=True)
    ]
    together = min(batch_size, len(rows))
    sample = sorted(prompts, key=len)[(len(rows) - together) // 2 :][:together]
    few, more = (
        of_all_layers(model, lambda number=number: generate(model, tokenizer, sample, number, batch_size))
        for number in NEW_TOKENS
    )
    of_token = max(0.0, more - few) / (NEW_TOKENS[1] - NEW_TOKENS[0])
    of_prompts = max(0.0, few - NEW_TOKENS[0] * of_token) / sum(map(len, sample)) * sum(map(len, prompts))
    return of_prompts + of_token * max(sum(lengths) / together, max(lengths))
