"""Score the responses of rows: loss and token accuracy, by the same code for validation and evaluation.

Loss is always total nats over all response tokens divided by their number, so it does not depend on how rows are batched.
The tokens that all rows start with go through the model once (see `packing`); `make bench` measures the speed.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lorabundle.compute import packing
from lorabundle.compute.fused import HEAD_MULTIPLE, HEAD_ROWS

PASS_TOKENS = 1024  # limit of a forward pass that scores rows


@dataclass(frozen=True)
class Score:
    """One example's response.

    Attributes:
        nats: sum of its tokens' negative log-likelihoods.
        tokens: their number.
        correct: number of those to which the model gave the highest probability.
    """

    nats: float
    tokens: int
    correct: int


def mean_loss(scores: list[Score]) -> float:
    """Nats a token over all examples: sum of nats / sum of tokens (not a mean of means)."""
    return sum(score.nats for score in scores) / sum(score.tokens for score in scores)


@torch.no_grad()
def score_responses(model: PreTrainedModel | PeftModel, rows: list[dict]) -> list[Score]:
    """Score each row's response tokens under `model`, in the rows' order.

    The rows are packed, as in training; the head is applied only at response tokens, and its logits are float32.

    Args:
        model: a causal language model, with or without an adapter, in evaluation mode.
        rows: {"input_ids", "labels"}; a label of -100 is not scored. Each row has another label.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    shared_tokens = packing.count_shared_tokens(rows)
    scores: list[Score | None] = [None] * len(rows)
    with packing.packed_attention(base):
        for indices in packing.batches([len(row["input_ids"]) for row in rows], shared_tokens, PASS_TOKENS):
            packed = packing.pack([rows[index] for index in indices], shared_tokens)
            states = packing.scored_states(base, packed)
            portions = zip(states.split(HEAD_ROWS), packed.targets.split(HEAD_ROWS), strict=True)
            nats, correct = zip(*(_score(base.lm_head, *portion) for portion in portions), strict=True)
            parts = (torch.cat(values).split(packed.num_response_tokens) for values in (nats, correct))
            for index, row_nats, row_correct in zip(indices, *parts, strict=True):
                scores[index] = Score(row_nats.double().sum().item(), len(row_nats), int(row_correct.sum()))
    return scores


def _score(head: torch.nn.Module, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(target) of each state (n, hidden) under `head`, and whether the target is the most likely: two tensors (n,)."""
    fill = -len(states) % HEAD_MULTIPLE
    logits = head(torch.nn.functional.pad(states, (0, 0, 0, fill)))[: len(states)].float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets
