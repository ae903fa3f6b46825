"""The parts of a Phi-3 layer as single autograd functions, for training: the same arithmetic with less written to memory.

They replace the `forward` of a model's modules. Parameters and their names do not change, so adapters are saved and loaded
in PEFT's own format. Modules that are not covered here (dropout, other adapter types) keep their own forward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn.functional import cross_entropy, log_softmax, pad, silu
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3MLP, Phi3RMSNorm

from lorabundle.compute import packing
from lorabundle.compute.frozen_linear import input_gradient, is_frozen, product

HEAD_ROWS = 256  # response tokens whose logits are in memory at a time: 256 x 49,152 x 4 bytes = 50 MB
HEAD_MULTIPLE = 32  # their number is rounded up to a multiple of it (see packing.TOKENS_MULTIPLE)


class Elementwise:
    """A cheap function of a layer's input, whose result is computed again in the backward pass instead of kept."""

    def result(self, x: torch.Tensor) -> torch.Tensor:
        """The function of x (..., size)."""
        return x

    def gradient(self, x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """The gradient of x, given x and the result's."""
        return dy


@dataclass(frozen=True)
class RmsNorm(Elementwise):
    """x / sqrt(mean(x^2) + eps) * weight, in float32 inside, with a frozen weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    weight: torch.Tensor
    eps: float

    def result(self, x):
        """See `Elementwise`."""
        wide = x.float()
        return (wide * self._scale(wide)).to(x.dtype).mul_(self.weight)

    def gradient(self, x, dy):
        """See `Elementwise`."""
        wide, dy = x.float(), (dy * self.weight).float()
        scale = self._scale(wide)
        share = (dy * wide).mean(-1, keepdim=True).mul_(scale.square())
        return dy.addcmul_(wide, share, value=-1).mul_(scale).to(x.dtype)

    def _scale(self, wide: torch.Tensor) -> torch.Tensor:
        return wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()


class SwiGlu(Elementwise):
    """silu(gate) * up of (gate, up), stacked (..., 2 x size) -> (..., size) (Shazeer 2020, arXiv 2002.05202)."""

    def result(self, x):
        """See `Elementwise`."""
        gate, up = x.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    def gradient(self, x, dy):
        """See `Elementwise`."""
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        dgate, dup = result.chunk(2, dim=-1)
        torch.mul(silu(gate), dy, out=dup)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
        return result


IDENTITY = Elementwise()


class Apply(torch.autograd.Function):
    """An `Elementwise` function of x. Keeps x."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        ctx.save_for_backward(x)
        return function.result(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.function.gradient(*ctx.saved_tensors, gradient), None


class LoraLinear(torch.autograd.Function):
    """y = f(x) W' + s (f(x) A') B' (Hu et al. 2021, arXiv 2106.09685), with W frozen: x (..., in) -> (..., out). Keeps x.

    `before` is f. W (out, in) is the weight of `base`. A (r, in) and B (out, r) are float32 and are used in x's dtype; their
    gradients are float32 again.
    """

    @staticmethod
    def forward(ctx, x, before, base, lora_a, lora_b, scaling):
        rows, a, b = before.result(x).flatten(0, -2), lora_a.to(x.dtype), lora_b.to(x.dtype)
        low = rows @ a.T
        y = product(base, rows).addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(x, low, a, b)
        ctx.before, ctx.base, ctx.scaling = before, base, scaling
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        x, low, a, b = ctx.saved_tensors
        dy = gradient.flatten(0, -2)
        dlow = (dy @ b).mul_(ctx.scaling)
        da = (dlow.T @ ctx.before.result(x).flatten(0, -2)).float()
        db = (low.T @ dy).T.float().mul_(ctx.scaling)  # in this order: dy.T @ low takes twice as long
        dx = None
        if ctx.needs_input_grad[0]:
            drows = input_gradient(ctx.base, dy).addmm_(dlow, a)
            dx = ctx.before.gradient(x, drows.unflatten(0, gradient.shape[:-1]))
        return dx, None, None, da, db, None


class ResponseNats(torch.autograd.Function):
    """Sum of -log p(target) in float64, for states (n, hidden), a frozen head (vocabulary, hidden) and targets (n,).

    The states' gradient is computed in the forward pass, so that only `HEAD_ROWS` rows of logits exist at a time.
    """

    @staticmethod
    def forward(ctx, states, head, targets):
        nats, count = torch.zeros((), dtype=torch.float64), len(states)
        fill = -count % HEAD_MULTIPLE
        states, targets = pad(states, (0, 0, 0, fill)), pad(targets, (0, fill))
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, count, HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            labels = targets[rows, None]
            likelihoods = log_softmax(product(head, states[rows]).float(), dim=-1)
            nats -= likelihoods.gather(1, labels)[: count - start].sum(dtype=torch.float64)
            if gradient is not None:
                errors = likelihoods.exp_().scatter_add_(1, labels, torch.full(labels.shape, -1.0))
                gradient[rows] = input_gradient(head, errors.to(states.dtype))
        ctx.save_for_backward(None if gradient is None else gradient[:count])
        return nats

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0] * gradient.item(), None, None  # a Python number: a bfloat16 one would round


def response_nats(states: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor) -> torch.Tensor:
    """Sum of -log p(target) under `head` (n, hidden) -> (n, vocabulary), as a float64 scalar with a gradient."""
    if is_frozen(head):
        return ResponseNats.apply(states, head, targets)
    return cross_entropy(head(states).float(), targets, reduction="sum").double()  # a head with its own adapter


def fuse(model: PreTrainedModel) -> None:
    """Make the modules of `model`, with its adapter attached, compute through the functions above where these cover them."""
    for module in model.modules():
        if isinstance(module, PeftLinear) and covered(module):
            module.forward = partial(_lora_forward, module)
        elif isinstance(module, Phi3RMSNorm):
            module.forward = _applied(RmsNorm(module.weight, module.variance_epsilon))
        elif isinstance(module, Phi3MLP) and isinstance(module.activation_fn, SiLUActivation):
            module.forward = partial(_mlp_forward, module, _applied(SwiGlu()))
    for layer in model.modules():
        if isinstance(layer, Phi3DecoderLayer) and layer.hidden_size >= packing.RECOMPUTE_FROM:
            _recompute(layer)


def unfuse(model: PreTrainedModel) -> None:
    """Restore every module's own `forward`."""
    for module in model.modules():
        vars(module).pop("forward", None)


def covered(layer: PeftLinear) -> bool:
    """Whether `LoraLinear` computes what this layer of PEFT does: one plain adapter, no dropout, no bias."""
    if len(layer.active_adapters) != 1 or layer.merged or layer.disable_adapters:
        return False
    name = layer.active_adapters[0]
    dropout = isinstance(layer.lora_dropout[name], torch.nn.Identity)
    return is_frozen(layer.base_layer) and dropout and name not in layer.lora_variant and not layer.lora_bias[name]


def _lora_forward(layer, x, before=IDENTITY):
    name = layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LoraLinear.apply(x, before, layer.base_layer, a, b, layer.scaling[name])


def _applied(function: Elementwise) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: Apply.apply(x, function)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _mlp_forward(mlp, activation, x):
    return mlp.down_proj(activation(mlp.gate_up_proj(x)))


def _recompute(layer: Phi3DecoderLayer) -> None:
    """Move the norms and the activation into the linear layers that take their results, where these and they are fused."""
    norms = (layer.input_layernorm, layer.self_attn.qkv_proj), (layer.post_attention_layernorm, layer.mlp.gate_up_proj)
    for norm, linear in norms:
        if _moved(RmsNorm(norm.weight, norm.variance_epsilon), linear):
            norm.forward = _unchanged
    if "forward" in vars(layer.mlp) and _moved(SwiGlu(), layer.mlp.down_proj):
        layer.mlp.forward = partial(_mlp_forward, layer.mlp, _unchanged)


def _moved(function: Elementwise, linear: torch.nn.Module) -> bool:
    """Let a fused linear layer compute `function` of its input first; False if it is not fused."""
    if not (isinstance(linear, PeftLinear) and "forward" in vars(linear)):
        return False
    linear.forward = partial(_lora_forward, linear, before=function)
    return True
