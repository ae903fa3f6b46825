"""Layers whose weight is kept in one format and multiplied in another, against float64 products of the same weight."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from lorabundle.compute import frozen_linear, int8
from lorabundle.compute.frozen_linear import FrozenEmbedding, Int8Linear, Nf4Linear, WideLinear

SHAPE = 160, 96  # out, in


@pytest.fixture(autouse=True)
def _seeded_and_in_pieces(monkeypatch):
    """Pieces of 64 outputs: two of them, and a smaller one."""
    torch.manual_seed(0)
    monkeypatch.setattr(frozen_linear, "PIECE", 64)


def layer(kind: str, weight: torch.Tensor, kernel: str | None = None) -> frozen_linear.FrozenLinear:
    if kind in ("float32", "bfloat16"):
        return WideLinear(weight.to(getattr(torch, kind)))
    return (Int8Linear if kind == "int8" else Nf4Linear)(weight, kernel and int8.KERNELS[kernel])


def restored(frozen: frozen_linear.FrozenLinear) -> torch.Tensor:
    return torch.cat([weight for _, weight in frozen.pieces(torch.float32)])


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, of all values together."""
    return ((found.double() - exact).norm() / exact.norm()).item()


def results(frozen: frozen_linear.FrozenLinear, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """The product and the gradient of its input."""
    x = x.clone().requires_grad_()
    y = frozen(x)
    return [y, *torch.autograd.grad(y, x, dy)]


def exact_results(frozen: frozen_linear.FrozenLinear, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    weight = restored(frozen).double()
    return [x.double() @ weight.T, dy.double() @ weight]


@pytest.mark.parametrize(("kind", "lost"), [("float32", 0), ("bfloat16", 0.003), ("int8", 0.01), ("nf4", 0.1)])
def test_the_weight_is_kept_as_exactly_as_the_format_allows(kind, lost):
    weight = torch.randn(SHAPE)
    assert error(restored(layer(kind, weight)), weight.double()) <= lost


def test_4_bits_are_those_of_one_quantisation(monkeypatch):
    """Quantised 256 weights at a time, and restored in pieces."""
    monkeypatch.setattr(frozen_linear, "SLICE", 256)
    weight = torch.randn(SHAPE)
    assert torch.equal(
        restored(layer("nf4", weight)),
        dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", blocksize=64)),
    )


@pytest.mark.parametrize("size", [96, 128])
def test_4_bits_as_int8_are_the_restored_weight_rounded(size):
    """Rows of 128 have blocks of their own, whose scales say what the largest weight of a row is; rows of 96 share blocks."""
    frozen = layer("nf4", torch.randn(160, size), "int_mm")
    whole, scale = (torch.cat(parts) for parts in list(zip(*frozen.int8_pieces(), strict=True))[1:])
    expected, expected_scale = int8.quantise(restored(frozen))
    torch.testing.assert_close(scale, expected_scale)
    assert (whole.long() - expected.long()).abs().max() <= 1  # where rounding is a matter of the last bit
    assert (whole != expected).float().mean() < 1e-3


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "nf4"])
def test_float_products_are_those_of_the_restored_weight(kind):
    frozen, x, dy = layer(kind, torch.randn(SHAPE)), torch.randn(3, 7, 96), torch.randn(3, 7, 160)
    for found, exact in zip(results(frozen, x, dy), exact_results(frozen, x, dy), strict=True):
        assert found.dtype is torch.float32
        assert found.shape == exact.shape
        assert error(found, exact) < 1e-6


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_products_in_bfloat16_stay_in_it(kind):
    frozen, x, dy = layer(kind, torch.randn(SHAPE)), torch.randn(7, 96), torch.randn(7, 160)
    for found, exact in zip(results(frozen, x.bfloat16(), dy.bfloat16()), exact_results(frozen, x, dy), strict=True):
        assert found.dtype is torch.bfloat16
        assert error(found, exact) < 0.01


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize(("kernel", "lost"), [("int_mm", 0.015), ("qlinear", 0.03)])
def test_int8_products_lose_what_rounding_explains(kind, kernel, lost):
    """Rounding to steps of s loses s / sqrt(12) of each value; a step is a row's largest value / 127, or / 63.

    That is 0.7 % of a normally distributed row, or 1.5 %; a 4-bit weight is rounded to int8 as well.
    """
    frozen, x, dy = layer(kind, torch.randn(SHAPE), kernel), torch.randn(50, 96), torch.randn(50, 160)
    for found, exact in zip(results(frozen, x, dy), exact_results(frozen, x, dy), strict=True):
        assert 0.001 < error(found, exact) < lost


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("kernel", list(int8.KERNELS))
def test_outlier_columns_spoil_nothing_if_they_are_kept_exact(kind, kernel):
    """Three columns of the input are 200 times as large as the others."""
    columns = torch.tensor([2, 50, 95])
    frozen, x, dy = layer(kind, torch.randn(SHAPE), kernel), torch.randn(50, 96), torch.randn(50, 160)
    x[:, columns] *= 200
    small = x.index_fill(1, columns, 0)
    (_, gradient), (_, exact_gradient) = results(frozen, x, dy), exact_results(frozen, x, dy)
    without = frozen.product(x) - x[:, columns] @ restored(frozen)[:, columns].T
    frozen.keep_exact(columns)
    with_them = frozen.product(x) - x[:, columns] @ restored(frozen)[:, columns].T
    exact = small.double() @ restored(frozen).double().T
    assert error(without, exact) > 0.5
    assert error(with_them, exact) < 0.03
    assert error(gradient, exact_gradient) < 0.03
    assert torch.equal(results(frozen, x, dy)[1], gradient)  # the gradient goes through all columns alike


def test_a_rows_result_does_not_depend_on_the_rows_beside_it():
    frozen, x = layer("int8", torch.randn(SHAPE), "qlinear"), torch.randn(50, 96)
    frozen.keep_exact(torch.tensor([4, 5]))
    torch.testing.assert_close(frozen.product(x)[:3], frozen.product(x[:3]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("kernel", [None, *int8.KERNELS])
def test_the_same_bytes_with_one_thread_and_two(kind, kernel):
    frozen, x, dy = layer(kind, torch.randn(512, 576), kernel), torch.randn(200, 576), torch.randn(200, 512)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(results(frozen, x, dy) if kernel else [frozen.weight])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_embedding_gives_rows_in_the_states_dtype():
    embedding = FrozenEmbedding(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16), torch.float32)
    states = embedding(torch.tensor([[1, 0]]))
    assert states.tolist() == [[[3.0, 4.0], [1.0, 2.0]]]
    assert states.dtype is torch.float32
    assert not embedding.weight.requires_grad


def test_what_is_frozen():
    plain = torch.nn.Linear(4, 4, bias=False)
    assert not frozen_linear.is_frozen(plain)
    assert frozen_linear.is_frozen(plain.requires_grad_(False))
    assert not frozen_linear.is_frozen(torch.nn.Linear(4, 4).requires_grad_(False))  # its bias would be lost
    assert frozen_linear.is_frozen(layer("int8", torch.randn(SHAPE)))
