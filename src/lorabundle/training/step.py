"""The training step: packed rows through fused layers, the head on response tokens only, and one division by their number.

The result is that of a padded batch through PEFT's own layers (a test compares 20 steps with TRL's `SFTTrainer`).
"""

from collections.abc import Iterable

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from lorabundle.compute import packing
from lorabundle.compute.fused import response_nats


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
