"""The training step: packed rows through fused layers, the head on response tokens alone, and one division by their number.

`fuse` prepares a model once; `backward` adds the gradients of some rows. What is computed is what a padded batch and
PEFT's own layers give (tested over 20 steps beside TRL's `SFTTrainer`).
"""

from collections.abc import Iterable

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from lorabundle.compute import packing
from lorabundle.compute.fused import fuse, response_nats

__all__ = ["backward", "fuse", "sharable_start", "unpadded"]


def sharable_start(settings: PreTrainedConfig, lora_dropout: float, rows: Iterable[dict]) -> int:
    """How many tokens the rows' shared start has; 0 where dropout would have to differ from row to row.

    Args:
        settings: the base model's.
        lora_dropout: the adapter's.
        rows: {"input_ids", "labels"}; gone through once.
    """
    dropouts = lora_dropout, settings.attention_dropout, settings.resid_pdrop, settings.embd_pdrop
    return 0 if any(dropouts) else packing.shared_start(rows)


def unpadded(batch: dict[str, torch.Tensor]) -> list[dict]:
    """The rows of a padded batch of "input_ids", "labels" and "attention_mask", each (rows, length)."""
    masks = batch["attention_mask"].bool()
    return [
        {"input_ids": ids[mask].tolist(), "labels": labels[mask].tolist()}
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], masks, strict=True)
    ]


def backward(model: PeftModel, rows: list[dict], shared: int, max_tokens: int, responses: int) -> torch.Tensor:
    """Add the gradients of the rows' nats / `responses` to the trainable parameters.

    Args:
        model: in training mode.
        rows: {"input_ids", "labels"}.
        shared: tokens that all rows start with (see `sharable_start`).
        max_tokens: of one forward pass; a longer row goes by itself.
        responses: response tokens of the whole optimizer step, so that accumulation changes nothing.

    Returns that loss, detached.
    """
    base = model.get_base_model()
    total = torch.zeros(())
    with packing.packed_attention(base):
        for indices in packing.batches([len(row["input_ids"]) for row in rows], shared, max_tokens):
            packed = packing.pack([rows[index] for index in indices], shared)
            states = packing.scored_states(base, packed)
            loss = response_nats(states, base.lm_head, packed.targets) / responses
            loss.backward()
            total += loss.detach()
    return total
