"""Greedy answers, several prompts at a time: a finished one leaves the batch, and a waiting prompt takes its place.

The tokens that all prompts start with (for example a template's system prompt) go through the model once.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lorabundle.model.prompts import end_of_turn_id

PROMPT_TOKENS = 384  # limit of a forward pass that reads prompts, padding included


@dataclass(frozen=True)
class Generation:
    """One greedy continuation; `stopped` if the model closed its turn before the length limit."""

    text: str
    stopped: bool


def _batches_by_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first, so that running out of memory shows at the start.

    A batch has at most `batch_size` prompts and, unless it is a single one, at most `PROMPT_TOKENS` tokens with its padding.
    """
    order, batches = sorted(range(len(lengths)), key=lambda index: -lengths[index]), []
    while order:
        size = max(1, min(batch_size, PROMPT_TOKENS // lengths[order[0]]))
        batches, order = [*batches, order[:size]], order[size:]
    return batches


def _pad(sequences: list[list[int]], value: int) -> torch.Tensor:
    """Integer sequences as a tensor (len(sequences), longest), filled with `value` on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, sequences)), batch_first=True, padding_value=value)


class _SharedStart:
    """The tokens that all sequences start with. They go through the model once."""

    def __init__(self, base: PreTrainedModel, sequences: list[list[int]]):
        """Compute its keys and values. It leaves out at least the last token of each sequence, whose hidden state is needed."""
        shortest = min(len(sequence) for sequence in sequences)
        differing = (place for place in range(shortest - 1) if len({sequence[place] for sequence in sequences}) > 1)
        self.length = next(differing, shortest - 1)
        self.base = base
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self.length:
            cache = DynamicCache()
            base.model(input_ids=torch.tensor([sequences[0][: self.length]]), past_key_values=cache, use_cache=True)
            self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def forward(self, sequences: list[list[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """Hidden states of what follows the shared start, padded on the right, and the keys and values of all tokens."""
        shape = len(sequences), -1, -1, -1
        cache = DynamicCache([(keys.expand(shape), values.expand(shape)) for keys, values in self.layers])
        output = self.base.model(
            input_ids=_pad([sequence[self.length :] for sequence in sequences], value=0),
            attention_mask=_pad([[1] * len(sequence) for sequence in sequences], value=0),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, cache


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
        batch_size: number of prompts decoded together.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    stop = end_of_turn_id(tokenizer)
    generations = []
    for new_ids in _continue(base, prompts, stop, max_new_tokens, batch_size):
        stopped = new_ids[-1] == stop
        kept = new_ids[:-1] if stopped else new_ids
        generations.append(Generation(tokenizer.decode(kept, skip_special_tokens=True).strip(), stopped))
    return generations


def _continue(
    base: PreTrainedModel, prompts: list[list[int]], stop: int, max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """Each prompt's greedy continuation, up to and including `stop`.

    (transformers' `generate` decodes all rows until the last one stops; its continuous batching, made for GPUs, took three
    times as long on a CPU.)
    """
    start = _SharedStart(base, prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = _batches_by_length([len(prompt) - start.length for prompt in prompts], max(1, batch_size // 4))
    going: list[int] = []  # the prompts being continued: the rows of the cache, which is padded on the left
    held = torch.tensor([], dtype=torch.long)  # number of tokens that it holds of each
    cache = DynamicCache()
    while waiting or going:
        if waiting and len(going) + len(waiting[0]) <= batch_size:
            latest = waiting.pop(0)
            lengths = torch.tensor([len(prompts[index]) for index in latest])
            hidden, coming = start.forward([prompts[index] for index in latest])
            states = hidden[torch.arange(len(latest)), lengths - start.length - 1]
            cache = _join([(cache, [slice(-n, None) for n in held]), (coming, [slice(n) for n in lengths])])
            going, held = going + latest, torch.cat([held, lengths])
        else:
            latest, width = going, cache.get_seq_length()
            states = base.model(
                input_ids=torch.tensor([answers[index][-1:] for index in going]),
                attention_mask=(torch.arange(width + 1) >= width - held[:, None]).long(),
                position_ids=held[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            held = held + 1
        for index, token in zip(latest, base.lm_head(states).float().argmax(dim=-1).tolist(), strict=True):
            answers[index].append(token)
        done = [answers[index][-1] == stop or len(answers[index]) == max_new_tokens for index in going]
        if any(done):
            kept = torch.tensor(done).logical_not().nonzero().flatten()
            cache.batch_select_indices(kept)
            going, held = [going[row] for row in kept], held[kept]
    return answers


def _join(parts: list[tuple[DynamicCache, list[slice]]]) -> DynamicCache:
    """One cache of the rows of all parts, padded on the left; the slices say where each row's tokens are."""
    parts = [(cache, places) for cache, places in parts if places]

    def stack(tensors: list[torch.Tensor]) -> torch.Tensor:
        places = [place for _, part in parts for place in part]
        rows = [row[:, place] for row, place in zip((row for t in tensors for row in t), places, strict=True)]
        width = max(row.shape[1] for row in rows)
        return torch.stack([torch.nn.functional.pad(row, (0, 0, width - row.shape[1], 0)) for row in rows])

    layers = zip(*(cache.layers for cache, _ in parts), strict=True)
    return DynamicCache(
        [(stack([part.keys for part in same]), stack([part.values for part in same])) for same in layers]
    )
