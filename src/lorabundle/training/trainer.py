"""TRL's `SFTTrainer` with our training step, order of rows, validation loss and checkpoints."""

from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from lorabundle.compute.fused import fuse
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.core.config import Config
from lorabundle.training import checkpoints, step
from lorabundle.training.step import Pass


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
        """Give each epoch its own order; accelerate's data loader calls this."""
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order), self.rows_per_step):
            yield from sorted(order[start : start + self.rows_per_step], key=lambda row: self.lengths[row])


class LoraTrainer(SFTTrainer):
    """`SFTTrainer` with our training step, a token-weighted validation loss and sealed checkpoints.

    Args:
        fingerprint: of the training, written into each checkpoint.
        val_rows: {"input_ids", "labels"} of the validation split.
        max_tokens: limit of one forward pass.
        shared_tokens: number of tokens that all training rows start with (see `step.count_sharable_tokens`).
        **kwargs: of `SFTTrainer`.
    """

    def __init__(self, *, fingerprint: str, val_rows: list[dict], max_tokens: int, shared_tokens: int, **kwargs):
        super().__init__(**kwargs)
        self.fingerprint = fingerprint
        self.val_rows = val_rows
        self.tokens_seen = 0
        self.max_tokens = max_tokens
        self.shared_tokens = shared_tokens
        fuse(self.model)

    def _get_train_sampler(self, train_dataset=None) -> StepSampler:
        rows_per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return StepSampler([len(ids) for ids in self.train_dataset["input_ids"]], rows_per_step, self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """`step.backward` instead of TRL's padded forward pass. The tokens seen are the rows' own, without padding."""
        model.train()
        rows = step.unpadded(inputs)
        self.tokens_seen += sum(len(row["input_ids"]) for row in rows)
        return step.backward(model, rows, self.shared_tokens, self.max_tokens, int(num_items_in_batch))

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Validation loss in nats a response token. (transformers' own averages the batches' means.)"""
        self.model.eval()
        scores = score_responses(self.model, self.val_rows)
        metrics = {"eval_loss": mean_loss(scores)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the number of tokens seen, so that it is in the state that a checkpoint keeps."""
        super().log(logs | {"tokens": self.tokens_seen}, *args, **kwargs)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write no TRL card: the adapter gets our card at the end, with the final validation loss."""

    def _save_checkpoint(self, *args, **kwargs) -> None:
        super()._save_checkpoint(*args, **kwargs)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        checkpoints.seal(folder, self.fingerprint)


def sft_config(run_config: Config, folder: Path) -> SFTConfig:
    """The run's settings in TRL's form. Every default that matters here is stated.

    Args:
        run_config: as it is trained with.
        folder: for the checkpoints.
    """
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
        disable_tqdm=True,  # `TrainingLog` has its own bar
        report_to="none",
    )


def training_passes(run_config: Config, rows: Dataset, shared_tokens: int) -> list[Pass]:
    """The forward passes of the first epoch, or of `max_steps` if these are fewer.

    Args:
        run_config: of the training.
        rows: "input_ids" of the training split.
        shared_tokens: number of tokens that all rows start with.
    """
    lengths, train = [len(ids) for ids in rows["input_ids"]], run_config.train
    rows_per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    order = StepSampler(lengths, rows_per_step, run_config.seed)
    trained = islice(order, rows_per_step * train.max_steps if train.max_steps > 0 else None)
    return step.passes(lengths, trained, shared_tokens, train)
