"""Products of whole numbers: by hand, exact sums, and the error that rounding explains."""

import pytest
import torch

from lorabundle.compute import int8
from lorabundle.compute.int8 import KERNELS, Kernel


def test_rounding_by_hand():
    """The largest value of each row becomes the limit: here in steps of 1 and of 0.5."""
    whole, scale = int8.rounded(torch.tensor([[127.0, -3.4, 0.0], [-63.5, 0.2, 0.3]]), 127)
    assert whole.tolist() == [[127, -3, 0], [-127, 0, 1]]
    assert scale.tolist() == [[1.0], [0.5]]


def test_outliers_are_left_out_by_hand():
    whole, scale = int8.rounded(torch.tensor([[1000.0, 1.0, -0.5]]), 2, torch.tensor([0]))
    assert whole.tolist() == [[0, 2, -1]]
    assert scale.tolist() == [[0.5]]


def test_a_row_of_zeros_stays_zero():
    whole, scale = int8.rounded(torch.zeros(2, 3), 127)
    assert not whole.any()
    assert bool((scale > 0).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", list(KERNELS))
def test_what_is_not_finite_stays_visible(name, value):
    """In its own row only: a training that diverges must not look like one that does not."""
    rows = torch.ones(2, 64)
    rows[0, 3] = value
    kernel = KERNELS[name]
    product = kernel.multiply(*int8.rounded(rows, kernel.limit), torch.ones(64, 64, dtype=torch.int8), None, False)
    assert not product[0].isfinite().any()
    assert product[1].isfinite().all()


def test_a_weight_by_hand():
    whole, scale = int8.quantise(torch.tensor([[2.54, -1.27], [0.0, 0.127]]))
    assert whole.tolist() == [[127, -64], [0, 127]]  # -63.5 is rounded to the even one
    assert scale.tolist() == pytest.approx([0.02, 0.001])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", list(KERNELS))
def test_product_by_hand(name, transposed):
    """(1, 2) times the weight ((1, 3), (2, 4)) or its transpose, with scales of 10 for the row and of 1 and 0.5 for the result."""
    weight = torch.tensor([[1, 3], [2, 4]], dtype=torch.int8)
    result = KERNELS[name].multiply(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0]]), weight, torch.tensor([1.0, 0.5]), transposed
    )
    assert result.tolist() == ([[50.0, 55.0]] if transposed else [[70.0, 50.0]])


@pytest.mark.parametrize("shape", [(1, 64, 64), (5, 96, 200), (130, 320, 64), (64, 200, 130)])
@pytest.mark.parametrize("name", list(KERNELS))
def test_sums_are_exact_for_any_shape(name, shape):
    """Number of rows, size, and outputs. 200 and 130 are no multiples of what is turned or computed at a time."""
    n, size, outputs = shape
    kernel, generator = KERNELS[name], torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, size), generator=generator, dtype=torch.int8)
    for transposed, width in ((False, size), (True, outputs)):
        whole = torch.randint(-kernel.limit, kernel.limit + 1, (n, width), generator=generator)
        expected = whole @ (weight.long() if transposed else weight.long().T)
        result = kernel.multiply(whole.float(), torch.ones(n, 1), weight, None, transposed)
        assert torch.equal(result, expected.float())


@pytest.mark.parametrize("name", list(KERNELS))
def test_every_kernel_is_exact_on_this_cpu(name):
    assert int8.is_exact(KERNELS[name])


def saturating(whole, row_scale, weight, scale, transposed):
    """What oneDNN does with 8 bits on a CPU without VNNI: pairs of products are added in 16 bits, which overflow."""
    matrix = (weight if transposed else weight.T).long()
    products = (whole.long() + 127)[:, :, None] * matrix
    pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(1) - 127 * matrix.sum(0)).float()


def test_sums_that_do_not_fit_are_noticed():
    assert not int8.is_exact(Kernel(127, saturating))
    assert not int8.is_exact(Kernel(127, lambda whole, s, weight, c, turn: whole @ weight.float()))  # never turned
