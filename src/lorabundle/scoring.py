"""Score responses and generate greedily: the same code for validation loss, evaluation and samples.

Loss is always total nats over all response tokens divided by their number, so it does not depend on how rows are batched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lorabundle.prompts import IGNORE_INDEX, end_of_turn_id

HEAD_POSITIONS = 1024  # rows of logits held at once: 1024 x 49,152 x 4 bytes = 200 MB


@dataclass(frozen=True)
class Score:
    """One example's response: sum of its tokens' negative log-likelihoods, their number, and how many ranked first."""

    nats: float
    tokens: int
    correct: int


@dataclass(frozen=True)
class Generation:
    """One greedy continuation; `stopped` if the model closed its turn before the length limit."""

    text: str
    stopped: bool


def mean_loss(scores: list[Score]) -> float:
    """Nats a token over all examples: sum of nats / sum of tokens (never a mean of means)."""
    return sum(score.nats for score in scores) / sum(score.tokens for score in scores)


def _batches_by_length(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first, so that running out of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _pad(sequences: list[list[int]], value: int, left: bool = False) -> torch.Tensor:
    """Integer sequences as a tensor (len(sequences), longest), filled with `value` on one side."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


@torch.no_grad()
def score_responses(model: PreTrainedModel | PeftModel, rows: list[dict], batch_size: int) -> list[Score]:
    """Score each row's response tokens under `model`, in the rows' order.

    The head is applied at response positions alone, in float32.

    Args:
        model: a causal language model, with or without an adapter, in evaluation mode.
        rows: {"input_ids", "labels"}; a label of -100 is not scored.
        batch_size: rows in one forward pass.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    scores: list[Score | None] = [None] * len(rows)
    for batch in _batches_by_length([len(row["input_ids"]) for row in rows], batch_size):
        input_ids = _pad([rows[index]["input_ids"] for index in batch], value=0)
        labels = _pad([rows[index]["labels"] for index in batch], value=IGNORE_INDEX)
        attention_mask = _pad([[1] * len(rows[index]["input_ids"]) for index in batch], value=0)
        hidden = base.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        targets = labels[:, 1:]  # the token at t is predicted from the hidden state at t - 1
        scored = targets != IGNORE_INDEX
        nats, correct = [], []
        for states, target in zip(
            hidden[:, :-1][scored].split(HEAD_POSITIONS), targets[scored].split(HEAD_POSITIONS), strict=True
        ):
            logits = base.lm_head(states).float()
            nats.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
            correct.append(logits.argmax(dim=-1) == target)
        tokens = scored.sum(dim=1).tolist()
        per_row = zip(batch, torch.cat(nats).split(tokens), torch.cat(correct).split(tokens), strict=True)
        for index, row_nats, row_correct in per_row:
            scores[index] = Score(row_nats.double().sum().item(), len(row_nats), int(row_correct.sum()))
    return scores


@torch.no_grad()
def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    batch_size: int,
) -> list[Generation]:
    """Continue each prompt greedily until the end-of-turn token or `max_new_tokens`, in the prompts' order.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, whose template gives the stop token.
        prompts: token ids that end with the opening of the assistant's turn.
        max_new_tokens: limit on new tokens, the end-of-turn token included.
        batch_size: prompts decoded together.
    """
    stop = end_of_turn_id(tokenizer)
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop, pad_token_id=stop)
    generations: list[Generation | None] = [None] * len(prompts)
    for batch in _batches_by_length([len(prompt) for prompt in prompts], batch_size):
        input_ids = _pad([prompts[index] for index in batch], value=stop, left=True)
        attention_mask = _pad([[1] * len(prompts[index]) for index in batch], value=0, left=True)
        outputs = model.generate(input_ids=input_ids, attention_mask=attention_mask, generation_config=settings)
        for index, new_ids in zip(batch, outputs[:, input_ids.shape[1] :].tolist(), strict=True):
            stopped = stop in new_ids
            kept = new_ids[: new_ids.index(stop)] if stopped else new_ids
            generations[index] = Generation(tokenizer.decode(kept, skip_special_tokens=True).strip(), stopped)
    return generations
