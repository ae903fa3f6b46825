"""Products of float rows with an int8 weight: the rows are rounded to whole numbers, and their sums are exact.

Each row has a scale of its own, so that one with large values does not spoil the others (Dettmers et al. 2022, arXiv 2208.07339).
Sums of whole numbers do not depend on their order, so the bytes are the same with any number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

WEIGHT_LIMIT = 127  # a stored weight is from -127 to 127
SMALLEST = torch.finfo(torch.float32).tiny  # the scale of a row of zeros
PART = (
    2**22
)  # weights that are converted or laid out at a time, because large temporaries leave large holes in the heap
TRANSPOSED = 64  # outputs that are transposed at a time: of 9,216 x 3,072 in 22 ms, all at once in 38 ms (EPYC Zen 3)


def rounded(rows: torch.Tensor, limit: int, outliers: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, size) as whole numbers from -limit to limit, still floats, and the float32 scale (n, 1) of each row.

    The columns `outliers` are 0 and do not count. If a value is not finite, its row's scale is not a number either, so that
    products show it.
    """
    sizes = rows.abs()
    if outliers is not None:
        sizes.index_fill_(1, outliers, 0)
    scale = sizes.amax(-1, keepdim=True).float().div_(limit).clamp_min_(SMALLEST)
    whole = torch.div(rows, scale.to(rows.dtype), out=sizes).round_()
    return whole if outliers is None else whole.index_fill_(1, outliers, 0), scale


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, in) as int8, and the float32 scale (out,) of each output."""
    whole, scales, outputs = torch.empty_like(weight, dtype=torch.int8), [], -(-PART // weight.shape[1])
    for part, into in zip(weight.split(outputs), whole.split(outputs), strict=True):
        numbers, scale = rounded(part.float(), WEIGHT_LIMIT)
        into.copy_(numbers)
        scales.append(scale.flatten())
    return whole, torch.cat(scales)


@dataclass(frozen=True)
class Kernel:
    """A way to multiply.

    Attributes:
        limit: rows are rounded to whole numbers from -limit to limit.
        multiply: (whole numbers (n, size), their scale (n, 1), int8 weight, scale of each column of the result or None,
            transposed) -> whole @ weight.T, or whole @ weight if transposed, times the scales, in float32.
    """

    limit: int
    multiply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, bool], torch.Tensor]


def _int_mm(whole, row_scale, weight, scale, transposed):
    """By torch's int8 product: oneDNN's where the CPU has VNNI or AMX, a plain loop where it has neither."""
    sums = torch._int_mm(whole.to(torch.int8), weight if transposed else weight.t())
    product = sums.to(torch.float32).mul_(row_scale)
    return product if scale is None else product.mul_(scale)


def _qlinear(whole, row_scale, weight, scale, transposed):
    """By oneDNN's quantised linear layer, which is fast with AVX2 alone.

    The weight is laid out for every product, so that it is in memory once. That takes 5 % of the time for small weights, and for
    large ones with 256 rows 15 to 30 %.
    """
    if transposed:
        turned = weight.new_empty(weight.shape[::-1])
        for part, into in zip(weight.split(TRANSPOSED), turned.split(TRANSPOSED, dim=1), strict=True):
            into.copy_(part.t())
        weight = turned  # a transposed view would be laid out in its old order
    shifted = (whole + 64).to(torch.uint8)
    scales, zeros = torch.ones(len(weight)) if scale is None else scale, torch.zeros(len(weight), dtype=torch.int64)
    product = row_scale.new_empty(len(whole), len(weight))
    outputs = -(-PART // weight.shape[1])
    parts = (values.split(outputs) for values in (weight, scales, zeros))
    for part, some_scales, some_zeros, columns in zip(*parts, product.split(outputs, dim=1), strict=True):
        packed = torch.ops.onednn.qlinear_prepack(part, list(whole.shape))
        sums = torch.ops.onednn.qlinear_pointwise(
            shifted, 1.0, 64, packed, some_scales, some_zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        torch.mul(sums, row_scale, out=columns)
    return product


KERNELS = {
    "int_mm": Kernel(127, _int_mm),
    "qlinear": Kernel(
        63, _qlinear
    ),  # with AVX2, two products are added in 16 bits; 127 can overflow (measured: 20 % off)
}


def is_exact(kernel: Kernel) -> bool:
    """Whether a kernel's sums are right where 16 bits, or a missing correction of the rows' offset, would not be enough."""
    size = 320
    values = torch.arange(size * size).view(size, size) % 5 - 2
    whole, weight = values.flip(0).sign() * kernel.limit, values * 63 + values.sign()  # pairs with 127 in both
    return all(
        torch.equal(
            kernel.multiply(whole.float(), torch.ones(size, 1), weight.to(torch.int8), None, transposed),
            (whole @ (weight if transposed else weight.T)).float(),
        )
        for transposed in (False, True)
    )
