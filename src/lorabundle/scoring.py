"""Score responses and generate greedily: the same code for validation loss, evaluation and samples.

Loss is always total nats over all response tokens divided by their number, so it does not depend on how rows are batched.
What all rows start with (a template's system prompt, say) goes through the model once; `make bench` measures the speed.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lorabundle.prompts import IGNORE_INDEX, end_of_turn_id

BATCH_TOKENS = 768  # of a scoring pass, padding included: larger ones were slower on a CPU, because they pad more
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


def _batches_by_length(lengths: list[int], batch_size: int, tokens: int | None = None) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first, so that running out of memory shows at once.

    A batch has at most `batch_size` rows and, if `tokens` is given and one row is not longer, so many padded tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        fitting = max(1, tokens // max(1, lengths[order[0]])) if tokens else batch_size
        size = min(batch_size, fitting)
        yield order[:size]
        order = order[size:]


def _pad(sequences: list[list[int]], value: int, left: bool = False) -> torch.Tensor:
    """Integer sequences as a tensor (len(sequences), longest), filled with `value` on one side."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


class _Prefix:
    """What all sequences start with, and its keys and values, computed once."""

    def __init__(self, base: PreTrainedModel, sequences: list[list[int]]):
        """Leave at least one token of each sequence, whose hidden state somebody wants."""
        common = len(os.path.commonprefix(sequences))
        self.length = min([common, *(len(sequence) - 1 for sequence in sequences)])
        self.cache = DynamicCache(config=base.config)
        if self.length:
            shared = torch.tensor([sequences[0][: self.length]])
            base.model(input_ids=shared, past_key_values=self.cache, use_cache=True)

    def for_rows(self, count: int) -> DynamicCache:
        """A cache of its own for a batch of `count` rows."""
        cache = copy.deepcopy(self.cache)
        if self.length:
            cache.batch_repeat_interleave(count)
        return cache

    def mask(self, lengths: list[int], left: bool = False) -> torch.Tensor:
        """Attention mask of a batch whose sequences have these lengths, the prefix included."""
        own = _pad([[1] * (length - self.length) for length in lengths], value=0, left=left)
        return torch.cat([own.new_ones(len(lengths), self.length), own], dim=1)


@torch.no_grad()
def score_responses(model: PreTrainedModel | PeftModel, rows: list[dict], batch_size: int) -> list[Score]:
    """Score each row's response tokens under `model`, in the rows' order.

    The head is applied at response positions alone, in float32.

    Args:
        model: a causal language model, with or without an adapter, in evaluation mode.
        rows: {"input_ids", "labels"}; a label of -100 is not scored.
        batch_size: rows in one forward pass, at most; long rows go in smaller batches.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    inputs = [row["input_ids"][:-1] for row in rows]  # the last token predicts nothing
    targets = [row["labels"][1:] for row in rows]  # the token at t is predicted from the hidden state at t - 1
    unscored = [next(t for t, label in enumerate(target) if label != IGNORE_INDEX) for target in targets]
    prefix = _Prefix(base, [ids[: first + 1] for ids, first in zip(inputs, unscored, strict=True)])
    scores: list[Score | None] = [None] * len(rows)
    for batch in _batches_by_length([len(ids) - prefix.length for ids in inputs], batch_size, BATCH_TOKENS):
        hidden = base.model(
            input_ids=_pad([inputs[index][prefix.length :] for index in batch], value=0),
            attention_mask=prefix.mask([len(inputs[index]) for index in batch]),
            past_key_values=prefix.for_rows(len(batch)),
            use_cache=True,
        ).last_hidden_state
        labels = _pad([targets[index][prefix.length :] for index in batch], value=IGNORE_INDEX)
        scored = labels != IGNORE_INDEX
        nats, correct = [], []
        for states, target in zip(
            hidden[scored].split(HEAD_POSITIONS), labels[scored].split(HEAD_POSITIONS), strict=True
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
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    stop = end_of_turn_id(tokenizer)
    prefix = _Prefix(base, prompts)
    generations: list[Generation | None] = [None] * len(prompts)
    for batch in _batches_by_length([len(prompt) for prompt in prompts], batch_size):
        answers = _continue(base, [prompts[index] for index in batch], prefix, stop, max_new_tokens)
        for index, new_ids in zip(batch, answers, strict=True):
            stopped = new_ids[-1] == stop
            kept = new_ids[:-1] if stopped else new_ids
            generations[index] = Generation(tokenizer.decode(kept, skip_special_tokens=True).strip(), stopped)
    return generations


def _continue(
    base: PreTrainedModel, prompts: list[list[int]], prefix: _Prefix, stop: int, max_new_tokens: int
) -> list[list[int]]:
    """Each prompt's greedy continuation, up to and including `stop`.

    Rows leave the batch as they finish. (transformers' `generate` decodes all rows until the last one stops, and its
    continuous batching, made for GPUs, was three times slower on a CPU.)
    """
    answers: list[list[int]] = [[] for _ in prompts]
    going = torch.arange(len(prompts))
    input_ids = _pad([prompt[prefix.length :] for prompt in prompts], value=stop, left=True)
    mask = prefix.mask([len(prompt) for prompt in prompts], left=True)
    position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, prefix.length :]
    cache = prefix.for_rows(len(prompts))
    for _ in range(max_new_tokens):
        hidden = base.model(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        ).last_hidden_state
        tokens = base.lm_head(hidden[:, -1]).float().argmax(dim=-1)
        for row, token in zip(going.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        kept = (tokens != stop).nonzero().flatten()
        if not len(kept):
            break
        if len(kept) < len(tokens):
            cache.batch_select_indices(kept)
        going, mask = going[kept], mask[kept]
        input_ids, position_ids = tokens[kept, None], position_ids[kept, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)
    return answers
