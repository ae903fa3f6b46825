"""Rows laid end to end in one sequence, so that no padding goes through the model, and shared tokens go through it once.

Each row attends to itself and to the tokens that all rows start with (for example a template's system prompt), and to no other
row. So the result is that of padded batches: the tests compare hidden states and gradients with transformers' own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from lorabundle.model.prompts import IGNORE_INDEX

ROWS_PER_GROUP = 4  # rows of similar length that attention pads to one; 2 and 8 were no faster
# Sizes are rounded up to these, because oneDNN generates and keeps about 0.5 MB of code for each new shape of a product: over
# the default run's 125 steps, each of other lengths, that came to more than 1 GB
TOKENS_MULTIPLE, LENGTH_MULTIPLE = 64, 16  # of a pack; of a group's rows
SDPA_FROM = 1024  # tokens of a row from which the fused attention is always used: the other keeps length^2 weights

# Hidden size from which what is cheap beside the products is computed again in the backward pass instead of kept (norms, SwiGLU,
# attention): less than half is kept. At 576 that takes 9 % more time; the larger the size, the smaller the share (EPYC Zen 3)
RECOMPUTE_FROM = 2048


@dataclass(frozen=True)
class Group:
    """Rows that attention treats together: `num_rows` of them, padded to `length`, after `shared_tokens` tokens common to all."""

    num_rows: int
    length: int
    shared_tokens: int


@dataclass(frozen=True)
class Packed:
    """Rows end to end, without each row's last token, which predicts nothing. The last row is filled up with token 0.

    Attributes:
        input_ids, position_ids: (1, tokens); a row's positions count from its own start.
        scored: (response tokens,) positions here whose next token is a label, row by row.
        targets: (response tokens,) those labels.
        num_response_tokens: of each row.
        groups: how attention pads the rows.
        padded: (padded tokens,) for each position in the groups, one group after the other, the position here; 0 for padding.
        places: (tokens,) the inverse: for each position here, the position in the groups.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    scored: torch.Tensor
    targets: torch.Tensor
    num_response_tokens: list[int]
    groups: list[Group]
    padded: torch.Tensor
    places: torch.Tensor


def count_shared_tokens(rows: Iterable[dict]) -> int:
    """Number of tokens that all rows start with. It ends before the token that predicts any row's first label."""
    start: list[int] | None = None
    for row in rows:
        ids, labels = row["input_ids"], row["labels"]
        usable = next(place for place, label in enumerate(labels) if label != IGNORE_INDEX) - 1
        start = ids[: max(0, usable)] if start is None else start
        same = (place for place, token in enumerate(start) if place >= usable or ids[place] != token)
        start = start[: next(same, len(start))]
    return len(start or [])


def batches(lengths: list[int], shared_tokens: int, max_tokens: int) -> list[list[int]]:
    """Indices of rows to pack together, in order of length; more than one row only if they fit in `max_tokens`.

    Args:
        lengths: of the rows' "input_ids".
        shared_tokens: number of tokens at their start that are packed once.
        max_tokens: limit of a pack.
    """
    result: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index] - 1 - shared_tokens
        if not result or length > room:
            result.append([])
            room = max_tokens - shared_tokens
        result[-1].append(index)
        room -= length
    return result


def count_tokens(lengths: Iterable[int], shared_tokens: int) -> int:
    """Number of tokens in a pack of rows of these lengths: the shared ones once, and no row's last token."""
    return shared_tokens + sum(length - 1 - shared_tokens for length in lengths)


def pack(rows: list[dict], shared_tokens: int) -> Packed:
    """Lay rows end to end.

    Args:
        rows: {"input_ids", "labels"}, best in order of length.
        shared_tokens: number of tokens at the start that are common to all rows (see `count_shared_tokens`); 0 to share none.
    """
    input_ids, position_ids = rows[0]["input_ids"][:shared_tokens], list(range(shared_tokens))
    targets, starts, lengths = [IGNORE_INDEX] * shared_tokens, [], []
    for row in rows:
        starts.append(len(input_ids))
        lengths.append(len(row["input_ids"]) - 1 - shared_tokens)
        input_ids = input_ids + row["input_ids"][shared_tokens:-1]
        position_ids += range(shared_tokens, shared_tokens + lengths[-1])
        targets += row["labels"][shared_tokens + 1 :]
    # Nothing attends to the fill after the last row, so it gets no gradient. Its positions are 0, which every model has
    fill = -len(input_ids) % TOKENS_MULTIPLE
    input_ids = input_ids + [0] * fill
    position_ids += [0] * fill
    targets += [IGNORE_INDEX] * fill
    lengths[-1] += fill
    groups = [Group(1, shared_tokens, 0)] if shared_tokens else []
    padded, real = [torch.arange(shared_tokens)], [torch.ones(shared_tokens, dtype=torch.bool)]
    for first in range(0, len(rows), ROWS_PER_GROUP):
        members = range(first, min(first + ROWS_PER_GROUP, len(rows)))
        longest = max(lengths[row] for row in members)
        longest += -longest % LENGTH_MULTIPLE
        groups.append(Group(len(members), longest, shared_tokens))
        offsets = torch.arange(longest)
        for row in members:
            real.append(offsets < lengths[row])
            padded.append(torch.where(real[-1], offsets + starts[row], 0))
    index, is_real = torch.cat(padded), torch.cat(real)
    places = torch.empty(len(input_ids), dtype=torch.long)
    places[index[is_real]] = is_real.nonzero().flatten()
    labels = torch.tensor(targets)
    scored = (labels != IGNORE_INDEX).nonzero().flatten()
    return Packed(
        input_ids=torch.tensor([input_ids]),
        position_ids=torch.tensor([position_ids]),
        scored=scored,
        targets=labels[scored],
        num_response_tokens=[sum(label != IGNORE_INDEX for label in row["labels"][1:]) for row in rows],
        groups=groups,
        padded=index,
        places=places,
    )


@contextmanager
def packed_attention(base: PreTrainedModel) -> Iterator[None]:
    """Make `base` attend as `Packed` says. Around the backward pass too: gradient checkpointing computes forward there."""
    _register_attention()
    before = base.config._attn_implementation  # "eager" or "sdpa"
    base.config._attn_implementation = f"packed_{before}"
    try:
        yield
    finally:
        base.config._attn_implementation = before


def scored_states(base: PreTrainedModel, packed: Packed) -> torch.Tensor:
    """Last hidden states (response tokens, hidden size) at the scored positions. Within `packed_attention`."""
    output = base.model(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, packed=packed)
    return output.last_hidden_state[0, packed.scored]


class _Pad(torch.autograd.Function):
    """(heads, tokens, size) to (heads, padded tokens, size). As two gathers: index_select's own backward is a slow scatter."""

    @staticmethod
    def forward(ctx, states, packed):
        ctx.places = packed.places
        return states.index_select(1, packed.padded)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(1, ctx.places), None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`; padding gets no gradient."""

    @staticmethod
    def forward(ctx, states, packed):
        ctx.places, ctx.padded_tokens = packed.places, states.shape[1]
        return states.index_select(1, packed.places)

    @staticmethod
    def backward(ctx, gradient):
        heads, _, size = gradient.shape
        result = gradient.new_zeros(heads, ctx.padded_tokens, size)
        return result.index_copy_(1, ctx.places, gradient), None


def _attend(
    core, module, query, key, value, attention_mask, scaling, packed, dropout=0.0, sliding_window=None, **kwargs
):
    """Attention over packed rows, with the signature that transformers' `AttentionInterface` asks for.

    Args:
        core: "eager" or "sdpa".
        query: (1, heads, tokens, head size); key, value: (1, key heads, tokens, head size).

    Returns the output (1, tokens, heads, head size), and None for the weights.
    """
    attend = partial(_attend_in_groups, core, packed, scaling, sliding_window, dropout)
    if dropout or module.config.hidden_size < RECOMPUTE_FROM:
        output = attend(query[0], key[0], value[0])
    else:
        # A copy of the values, because they are part of a larger tensor, which would be kept whole
        output = _Recomputed.apply(attend, query[0], key[0], value[0].clone())
    return output.transpose(0, 1)[None], None


class _Recomputed(torch.autograd.Function):
    """attend(queries, keys, values), which keeps these three for the backward pass and computes again what is between.

    That is less than half of what autograd would keep: copies with padding and with the shared tokens, and weights. (Of torch's
    `checkpoint`, one form refuses `autograd.grad`, and the other hides what it keeps from the memory estimate.)
    """

    @staticmethod
    def forward(ctx, attend, *states):
        ctx.attend = attend
        ctx.save_for_backward(*states)
        return attend(*states)

    @staticmethod
    def backward(ctx, gradient):
        states = [kept.detach().requires_grad_() for kept in ctx.saved_tensors]
        with torch.enable_grad():
            output = ctx.attend(*states)
        return None, *torch.autograd.grad(output, states, gradient)


def _attend_in_groups(core, packed, scaling, sliding_window, dropout, *states):
    """Attention for queries (heads, tokens, head size), keys and values (key heads, tokens, head size); output as queries."""
    sizes = [group.num_rows * group.length for group in packed.groups]
    parts = [_Pad.apply(state, packed).split(sizes, dim=1) for state in states]
    outputs, shared = [], ()
    for group, queries, keys, values in zip(packed.groups, *parts, strict=True):
        if group.shared_tokens:
            keys, values = (_after_shared(*pair, group) for pair in zip(shared, (keys, values), strict=True))
        else:
            shared = keys, values
            keys, values = (_rows(part, group) for part in shared)
        attend = CORES["sdpa" if group.length >= SDPA_FROM else core]
        hidden = mask(group, sliding_window, queries.dtype)
        outputs.append(attend(_rows(queries, group), keys, values, hidden, scaling, dropout).flatten(1, 2))
    return _Unpad.apply(torch.cat(outputs, dim=1), packed)


def _rows(states: torch.Tensor, group: Group) -> torch.Tensor:
    """(heads, rows x length, size) as (heads, rows, length, size)."""
    return states.unflatten(1, (group.num_rows, group.length))


def _after_shared(shared: torch.Tensor, states: torch.Tensor, group: Group) -> torch.Tensor:
    """The shared keys or values and then each row's own: (key heads, rows, shared + length, size)."""
    return torch.cat([shared[:, None].expand(-1, group.num_rows, -1, -1), _rows(states, group)], dim=2)


def mask(group: Group, sliding_window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """(length, shared + length): 0 where a token may look, -inf at later tokens and at those outside the window."""
    num_keys = group.shared_tokens + group.length
    distance = torch.arange(group.length)[:, None] + group.shared_tokens - torch.arange(num_keys)
    hidden = (distance < 0) | (distance >= (sliding_window or num_keys))
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _eager(query, key, value, mask, scaling, dropout):
    """Softmax attention in two batched products: query heads that share a key head are rows of one matrix."""
    heads, rows, length, size = query.shape
    heads_per_key = heads // len(key)
    stacked = query.unflatten(0, (-1, heads_per_key)).transpose(1, 2).reshape(-1, heads_per_key * length, size)
    scores = torch.baddbmm(mask.repeat(heads_per_key, 1), stacked, key.flatten(0, 1).transpose(1, 2), alpha=scaling)
    weights = drop(scores.softmax(dim=-1), dropout)
    output = weights @ value.flatten(0, 1)
    return output.view(-1, rows, heads_per_key, length, size).transpose(1, 2).reshape(query.shape)


def _sdpa(query, key, value, mask, scaling, dropout):
    """The same by torch's fused kernel, which computes the weights again in the backward pass instead of keeping them."""
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=len(key[0]) != len(query[0])
    )
    return output.transpose(0, 1)


CORES = {"eager": _eager, "sdpa": _sdpa}  # by the names of transformers' own


@cache
def _register_attention() -> None:
    """Make the packed attention known to transformers, once."""
    for name in CORES:
        AttentionInterface.register(f"packed_{name}", partial(_attend, name))
