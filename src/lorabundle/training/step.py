"""The training step: packed rows through fused layers, the head on response tokens only, and one division by their number.

The result is that of a padded batch through PEFT's own layers (a test compares 20 steps with TRL's `SFTTrainer`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from lorabundle.compute import packing
from lorabundle.compute.fused import response_nats
from lorabundle.core.config import Train


@dataclass(frozen=True, order=True)
class Pass:
    """A forward pass of a training.

    Attributes:
        tokens: that go through the model, the shared ones once.
        rows: indices of its rows.
    """

    tokens: int
    rows: list[int]


def count_sharable_tokens(model_config: PreTrainedConfig, lora_dropout: float, rows: Iterable[dict]) -> int:
    """Number of tokens at the start of all rows that can go through the model once for all.

    It is 0 if the model uses dropout, which has to differ from row to row.

    Args:
        model_config: of the base model.
        lora_dropout: of the adapter.
        rows: {"input_ids", "labels"}; read once.
    """
    dropouts = lora_dropout, model_config.attention_dropout, model_config.resid_pdrop, model_config.embd_pdrop
    return 0 if any(dropouts) else packing.count_shared_tokens(rows)


def unpadded(batch: dict[str, torch.Tensor]) -> list[dict]:
    """The rows of a padded batch of "input_ids", "labels" and "attention_mask", each (rows, length)."""
    masks = batch["attention_mask"].bool()
    return [
        {"input_ids": ids[mask].tolist(), "labels": labels[mask].tolist()}
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], masks, strict=True)
    ]


def passes(lengths: list[int], order: Iterable[int], shared_tokens: int, train: Train) -> list[Pass]:
    """The forward passes of a training.

    Args:
        lengths: of all rows.
        order: indices of the rows, in the order of the training.
        shared_tokens: number of tokens that all rows start with.
        train: settings.
    """
    order, batch_size = list(order), train.per_device_train_batch_size
    result = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for indices in packing.batches([lengths[row] for row in batch], shared_tokens, train.max_tokens):
            rows = [batch[index] for index in indices]
            result.append(Pass(packing.count_tokens([lengths[row] for row in rows], shared_tokens), rows))
    return result


def backward(
    model: PeftModel, rows: list[dict], shared_tokens: int, max_tokens: int, num_response_tokens: int
) -> torch.Tensor:
    """Add the gradients of the rows' nats / `num_response_tokens` to the trainable parameters.

    Args:
        model: in training mode.
        rows: {"input_ids", "labels"}.
        shared_tokens: number of tokens that all rows start with (see `count_sharable_tokens`).
        max_tokens: limit of one forward pass; a longer row gets a pass of its own.
        num_response_tokens: of the complete optimizer step, so that gradient accumulation does not change the result.

    Returns that loss, detached.
    """
    base = model.get_base_model()
    total = torch.zeros(())
    with packing.packed_attention(base):
        for indices in packing.batches([len(row["input_ids"]) for row in rows], shared_tokens, max_tokens):
            packed = packing.pack([rows[index] for index in indices], shared_tokens)
            states = packing.scored_states(base, packed)
            loss = response_nats(states, base.lm_head, packed.targets) / num_response_tokens
            loss.backward()
            total += loss.detach()
    return total
