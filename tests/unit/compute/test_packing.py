"""Packed rows: the layout by hand, and the same hidden states and gradients as each row gives by itself."""

import pytest
import torch

from lorabundle.compute import packing
from lorabundle.model.prompts import IGNORE_INDEX

NO = IGNORE_INDEX


def row(input_ids: list[int], num_response_tokens: int) -> dict:
    """A row whose last `num_response_tokens` tokens are labels."""
    return {
        "input_ids": input_ids,
        "labels": [NO] * (len(input_ids) - num_response_tokens) + input_ids[-num_response_tokens:],
    }


ROWS = [row([9, 8, 1, 2, 3], 1), row([9, 8, 1, 4, 5, 6], 2)]


def test_shared_tokens_end_before_what_differs_and_before_what_is_scored():
    assert packing.count_shared_tokens(ROWS) == 3
    assert packing.count_shared_tokens([ROWS[0]]) == 3  # the token before the label predicts it, and stays with its row
    assert packing.count_shared_tokens([row([9, 8], 1), row([9, 8, 7], 1)]) == 0
    assert packing.count_shared_tokens([row([1, 2, 3], 1), row([4, 2, 3], 1)]) == 0


def test_layout_by_hand(monkeypatch):
    """After the shared 9 8: 1 2 (for the label 3), then 1 4 5 (for 5 and 6, from 4 and 5)."""
    monkeypatch.setattr(packing, "TOKENS_MULTIPLE", 1)
    monkeypatch.setattr(packing, "LENGTH_MULTIPLE", 1)
    packed = packing.pack(ROWS, shared_tokens=2)
    assert packed.input_ids.tolist() == [[9, 8, 1, 2, 1, 4, 5]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert packed.scored.tolist() == [3, 5, 6]
    assert packed.targets.tolist() == [3, 5, 6]
    assert packed.groups == [packing.Group(1, 2, 0), packing.Group(2, 3, 2)]
    assert packed.padded.tolist() == [0, 1, 2, 3, 0, 4, 5, 6]  # the fifth is padding
    assert packed.places.tolist() == [0, 1, 2, 3, 5, 6, 7]


def test_sizes_are_rounded_up(monkeypatch):
    """The seven tokens above filled up to eight, after the last row, and its group of 2 x 4 to 2 x 6."""
    monkeypatch.setattr(packing, "TOKENS_MULTIPLE", 8)
    monkeypatch.setattr(packing, "LENGTH_MULTIPLE", 3)
    packed = packing.pack(ROWS, shared_tokens=2)
    assert packed.input_ids.tolist() == [[9, 8, 1, 2, 1, 4, 5, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0]]
    assert packed.scored.tolist() == [3, 5, 6]
    assert packed.groups == [packing.Group(1, 2, 0), packing.Group(2, 6, 2)]
    assert packed.padded.tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 4, 5, 6, 7, 0, 0]
    assert packed.places.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_batches_go_by_length_and_keep_to_the_limit():
    lengths = [9, 3, 30, 5, 4]
    assert packing.batches(lengths, shared_tokens=0, max_tokens=12) == [
        [1, 4, 3],
        [0],
        [2],
    ]  # 2 + 3 + 4, 8, and 29 by itself
    # 1 + 1 + 2 + 3 = 7, but 7 more is too much
    assert packing.batches(lengths, shared_tokens=1, max_tokens=12) == [[1, 4, 3], [0], [2]]
    assert packing.batches(lengths, shared_tokens=1, max_tokens=14) == [[1, 4, 3, 0], [2]]
    assert packing.batches(lengths, shared_tokens=0, max_tokens=1) == [[1], [4], [3], [0], [2]]


def test_mask_by_hand():
    """Two shared tokens and three own; with a window of 3, a token sees itself and the two before it."""
    inf = -torch.inf
    group = packing.Group(1, 3, 2)
    assert packing.mask(group, None, torch.float32).tolist() == [
        [0, 0, 0, inf, inf],
        [0, 0, 0, 0, inf],
        [0, 0, 0, 0, 0],
    ]
    assert packing.mask(group, 3, torch.float32).tolist() == [
        [0, 0, 0, inf, inf],
        [inf, 0, 0, 0, inf],
        [inf, inf, 0, 0, 0],
    ]


def states_one_by_one(model, rows: list[dict]) -> torch.Tensor:
    states = []
    for example in rows:
        hidden = model.model(input_ids=torch.tensor([example["input_ids"][:-1]]), use_cache=False).last_hidden_state[0]
        states.append(hidden[[place for place, label in enumerate(example["labels"][1:]) if label != NO]])
    return torch.cat(states)


@pytest.mark.parametrize("recompute_from", [0, 2048], ids=["computed again", "kept"])
@pytest.mark.parametrize("window", [None, 4], ids=["no window", "sliding window"])
@pytest.mark.parametrize("core", ["eager", "sdpa"])
@pytest.mark.parametrize("shared", [0, 3])
def test_states_and_gradients_are_those_of_single_rows(tiny_copy, shared, core, window, recompute_from, monkeypatch):
    """Nine rows: two full groups and one of a single row, of lengths that need padding within a group."""
    monkeypatch.setattr(packing, "RECOMPUTE_FROM", recompute_from)
    tiny_copy.config._attn_implementation = core
    tiny_copy.config.sliding_window = window
    generator = torch.Generator().manual_seed(1)
    tails = [torch.randint(2, 16, (length,), generator=generator).tolist() for length in (3, 4, 4, 5, 7, 9, 9, 12, 20)]
    rows = [row([5, 6, 7, *tail], 2) for tail in tails]
    weights = tiny_copy.model.layers[0].self_attn.qkv_proj.weight, tiny_copy.model.embed_tokens.weight
    factor = torch.randn(32, generator=generator)

    expected = states_one_by_one(tiny_copy, rows)
    expected_gradients = torch.autograd.grad((expected @ factor).square().sum(), weights)
    with packing.packed_attention(tiny_copy):
        states = packing.scored_states(tiny_copy, packing.pack(rows, shared))
    gradients = torch.autograd.grad((states @ factor).square().sum(), weights)

    assert tiny_copy.config._attn_implementation == core
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_a_row_does_not_see_its_neighbour(tiny_copy):
    first, second = row([5, 6, 7, 8, 9, 2], 2), row([5, 6, 4, 3, 11, 12, 2], 2)
    other = row([5, 6, 14, 13, 15, 10, 2], 2)
    with packing.packed_attention(tiny_copy), torch.no_grad():
        states = [
            packing.scored_states(tiny_copy, packing.pack([first, last], shared_tokens=2)) for last in (second, other)
        ]
    torch.testing.assert_close(states[0][:2], states[1][:2], rtol=0, atol=0)
    assert not torch.allclose(states[0][2:], states[1][2:])


def test_a_long_row_keeps_no_attention_weights(tiny_copy, monkeypatch):
    """Eager attention would keep length x length of them a head; long rows always take the fused kernel."""
    used = []
    for name, core in packing.CORES.items():
        monkeypatch.setitem(packing.CORES, name, lambda *a, name=name, core=core: used.append(name) or core(*a))
    monkeypatch.setattr(packing, "SDPA_FROM", 100)
    tiny_copy.config._attn_implementation = "eager"
    with packing.packed_attention(tiny_copy):
        packing.scored_states(tiny_copy, packing.pack([row([5] * 6, 1), *[row([5] * 120, 1)] * 4], shared_tokens=0))
    assert set(used) == {"sdpa"}  # both groups hold a long row
    used.clear()
    with packing.packed_attention(tiny_copy):
        packing.scored_states(tiny_copy, packing.pack([row([5] * 6, 1)] * 2, shared_tokens=0))
    assert set(used) == {"eager"}
