"""Frozen linear layers whose weight is kept in one format and multiplied in another.

A format that products cannot use is restored in pieces of `PIECE` outputs, each for a moment, so that the whole weight is never in
memory in the wider format; pieces of 256 to 1,024 were as fast as a float32 weight (EPYC Zen 3).
"""

from collections.abc import Iterator

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from transformers import PreTrainedModel

from lorabundle.compute import int8

PIECE = 512  # outputs; a multiple of the block size, so that a piece of a 4-bit weight has blocks of its own
BLOCK = 64  # weights with a scale of their own in 4 bits (Dettmers et al. 2023, arXiv 2305.14314)
SLICE = BLOCK * 2**14  # weights that are quantised to 4 bits at a time: all at once would take 32 times their memory

# Columns that int8 products leave to float32. Loss of 40 validation rows of the default model with none, 16 and 32: 0.086, 0.021 and
# 0.014 above that of float32 products with 7 bits, and 0.021, 0.009 and 0.000 above it with 8
OUTLIERS = 32
TOKENS = 256  # whose states show where the outliers are


def is_frozen(layer: torch.nn.Module) -> bool:
    """Whether `product` and `input_gradient` are all that this layer does, and its gradient."""
    if isinstance(layer, FrozenLinear):
        return True
    return type(layer) is torch.nn.Linear and layer.bias is None and not layer.weight.requires_grad


def product(layer: torch.nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """The product rows W', for rows (n, in) -> (n, out)."""
    return layer.product(rows) if isinstance(layer, FrozenLinear) else rows @ layer.weight.T


def input_gradient(layer: torch.nn.Linear, dy: torch.Tensor) -> torch.Tensor:
    """The product dy W, for dy (n, out) -> (n, in)."""
    return layer.input_gradient(dy) if isinstance(layer, FrozenLinear) else dy @ layer.weight


class FrozenLinear(torch.nn.Linear):
    """y = x W', for x (..., in) -> (..., out) in x's dtype. Subclasses keep W (out, in).

    It is a `torch.nn.Linear`, so PEFT attaches its ordinary adapters, and saves them under the ordinary names.
    """

    def __init__(self, stored: torch.Tensor, shape: tuple[int, int], kernel: int8.Kernel | None):
        """Args:
        stored: the weight as it is kept.
        shape: (out, in).
        kernel: of int8 products; None: products in the rows' dtype.
        """
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.weight = torch.nn.Parameter(stored, requires_grad=False)
        self.register_parameter("bias", None)
        self.kernel = kernel
        self.register_buffer("outliers", None, persistent=False)
        self.register_buffer("outlier_weight", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `product`, for x (..., in), with a gradient."""
        return _Product.apply(x, self)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """The outputs of each piece, and their weights in `dtype`."""
        raise NotImplementedError

    def int8_pieces(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """The outputs of each piece, their weights as int8, and their scales (outputs,)."""
        raise NotImplementedError

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """The product rows W', for rows (n, in) -> (n, out)."""
        y: torch.Tensor | None = None
        for outputs, part in self._parts(rows):
            if part.shape[1] == self.out_features:
                return part
            y = rows.new_empty(len(rows), self.out_features) if y is None else y
            y[:, outputs] = part
        return y

    def _parts(self, rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        if self.kernel is None:
            for outputs, weight in self.pieces(rows.dtype):
                yield outputs, rows @ weight.T
            return
        rounded = int8.rounded(rows, self.kernel.limit, self.outliers)
        exact = None if self.outliers is None else rows.index_select(1, self.outliers).float()
        for outputs, weight, scale in self.int8_pieces():
            part = self.kernel.multiply(*rounded, weight, scale, False)
            if exact is not None:
                part.addmm_(exact, self.outlier_weight[:, outputs])
            yield outputs, part.to(rows.dtype)

    def input_gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """The product dy W, for dy (n, out) -> (n, in)."""
        dx: torch.Tensor | None = None
        if self.kernel is None:
            for outputs, weight in self.pieces(dy.dtype):
                dx = dy[:, outputs] @ weight if dx is None else dx.addmm_(dy[:, outputs], weight)
            return dx
        # Sums run over the outputs, so their scales are multiplied into the gradient before that is rounded
        for outputs, weight, scale in self.int8_pieces():
            part = self.kernel.multiply(*int8.rounded(dy[:, outputs] * scale, self.kernel.limit), weight, None, True)
            dx = part if dx is None else dx.add_(part)
        return dx.to(dy.dtype)

    def keep_exact(self, columns: torch.Tensor) -> None:
        """Multiply these columns of the rows in float32 from now on: their values are so large that others would be rounded to 0."""
        weight = torch.cat([piece[:, columns] for _, piece in self.pieces(torch.float32)])
        self.outliers, self.outlier_weight = columns, weight.t().contiguous()


@torch.no_grad()
def keep_outliers_exact(model: PreTrainedModel) -> None:
    """Find each layer's columns of outliers, and multiply these in float32.

    Which columns have values many times as large as the others' depends little on the text (Dettmers et al. 2022, arXiv
    2208.07339), so ids from all over the vocabulary show them. They are chosen once, so that a row's result does not depend on
    the rows beside it.
    """
    layers = [module for module in model.modules() if isinstance(module, FrozenLinear) and module.kernel is not None]
    largest: dict[FrozenLinear, torch.Tensor] = {}

    def note(layer: FrozenLinear, inputs: tuple[torch.Tensor]) -> None:
        largest[layer] = inputs[0].flatten(0, -2).abs().amax(0)

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    model.base_model(input_ids=torch.arange(0, model.config.vocab_size, -(-model.config.vocab_size // TOKENS))[None])
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.keep_exact(largest[layer].topk(min(OUTLIERS, layer.in_features // 2)).indices.sort().values)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return layer.product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        return ctx.layer.input_gradient(gradient.flatten(0, -2)).unflatten(0, gradient.shape[:-1]), None


class WideLinear(FrozenLinear):
    """A weight in float32 or bfloat16."""

    def __init__(self, weight: torch.Tensor):
        super().__init__(weight, weight.shape, None)

    def pieces(self, dtype):
        """See `FrozenLinear`."""
        size = self.out_features if self.weight.dtype is dtype else PIECE
        for start in range(0, self.out_features, size):
            yield slice(start, start + size), self.weight[start : start + size].to(dtype)


class Int8Linear(FrozenLinear):
    """An int8 weight with a scale for each output."""

    def __init__(self, weight: torch.Tensor, kernel: int8.Kernel | None):
        whole, scale = int8.quantise(weight)
        super().__init__(whole, weight.shape, kernel)
        self.register_buffer("scale", scale)

    def pieces(self, dtype):
        """See `FrozenLinear`."""
        for start in range(0, self.out_features, PIECE):
            outputs = slice(start, start + PIECE)
            yield outputs, self.weight[outputs].to(dtype).mul_(self.scale[outputs, None].to(dtype))

    def int8_pieces(self):
        """See `FrozenLinear`."""
        yield slice(None), self.weight, self.scale


class Nf4Linear(FrozenLinear):
    """A weight in NormalFloat4 with a scale for each block of 64 weights (Dettmers et al. 2023, arXiv 2305.14314).

    By bitsandbytes, which restores 50 M weights in 5 ms; torchao's NF4 took 345 ms (EPYC Zen 4, two cores).
    """

    def __init__(self, weight: torch.Tensor, kernel: int8.Kernel | None):
        slices = [quantize_4bit(part, quant_type="nf4", blocksize=BLOCK) for part in weight.flatten().split(SLICE)]
        packed = torch.cat([data for data, _ in slices]).flatten()
        super().__init__(packed, weight.shape, kernel)
        self.register_buffer("absmax", torch.cat([state.absmax for _, state in slices]))
        self.register_buffer("code", slices[0][1].code)

    def pieces(self, dtype):
        """See `FrozenLinear`."""
        for outputs, absmax in self._blocks():
            yield outputs, self._restored(outputs, absmax, dtype)

    def int8_pieces(self):
        """See `FrozenLinear`. A block's largest weight is restored exactly, so a row's largest is that of its blocks."""
        for outputs, absmax in self._blocks():
            if self.in_features % BLOCK:  # rows share blocks
                yield outputs, *int8.quantise(self._restored(outputs, absmax, torch.float32))
                continue
            blocks = absmax.view(-1, self.in_features // BLOCK)
            scale = blocks.amax(1).div_(int8.WEIGHT_LIMIT).clamp_min_(int8.SMALLEST)
            whole = self._restored(outputs, (blocks / scale[:, None]).flatten(), torch.float32)
            yield outputs, whole.round_().to(torch.int8), scale

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """The outputs of each piece, and the largest weight of each of its blocks."""
        size = self.in_features
        for start in range(0, self.out_features, PIECE):
            end = min(start + PIECE, self.out_features)
            yield slice(start, end), self.absmax[start * size // BLOCK : -(-end * size // BLOCK)]

    def _restored(self, outputs: slice, absmax: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        shape = outputs.stop - outputs.start, self.in_features
        state = QuantState(absmax, shape, self.code, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
        packed = self.weight[outputs.start * shape[1] // 2 : -(-outputs.stop * shape[1] // 2), None]  # two in a byte
        return dequantize_4bit(packed, state)


class FrozenEmbedding(torch.nn.Embedding):
    """An embedding (vocabulary, size) whose rows are given in `dtype`, whatever they are kept in."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype):
        super().__init__(*weight.shape, _weight=weight, _freeze=True)
        self.dtype = dtype

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The ids' rows (..., size)."""
        return super().forward(input_ids).to(self.dtype)
