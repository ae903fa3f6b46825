"""The parts of a Phi-3 layer as single autograd functions, for training: the same arithmetic with less written to memory.

They replace the `forward` of a model's modules. Parameters and their names do not change, so adapters are saved and loaded
in PEFT's own format. Modules that are not covered here (dropout, other adapter types) keep their own forward.
"""

from functools import partial

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn.functional import cross_entropy, log_softmax, pad, silu
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.phi3.modeling_phi3 import Phi3MLP, Phi3RMSNorm

from lorabundle.compute.frozen_linear import input_gradient, is_frozen, product

HEAD_ROWS = 256  # response tokens whose logits are in memory at a time: 256 x 49,152 x 4 bytes = 50 MB
HEAD_MULTIPLE = 32  # their number is rounded up to a multiple of it (see packing.TOKENS_MULTIPLE)


class LoraLinear(torch.autograd.Function):
    """y = x W' + s (x A') B' (Hu et al. 2021, arXiv 2106.09685), with W frozen: x (..., in) -> (..., out).

    W (out, in) is the weight of `base`. A (r, in) and B (out, r) are float32 and are used in x's dtype; their gradients
    are float32 again.
    """

    @staticmethod
    def forward(ctx, x, base, lora_a, lora_b, scaling):
        rows, a, b = x.flatten(0, -2), lora_a.to(x.dtype), lora_b.to(x.dtype)
        low = rows @ a.T
        y = product(base, rows).addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(rows, low, a, b)
        ctx.base, ctx.scaling = base, scaling
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        rows, low, a, b = ctx.saved_tensors
        dy = gradient.flatten(0, -2)
        dlow = (dy @ b).mul_(ctx.scaling)
        da = (dlow.T @ rows).float()
        db = (low.T @ dy).T.float().mul_(ctx.scaling)  # in this order: dy.T @ low takes twice as long
        dx = None
        if ctx.needs_input_grad[0]:
            dx = input_gradient(ctx.base, dy).addmm_(dlow, a).unflatten(0, gradient.shape[:-1])
        return dx, None, da, db, None


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, in float32 inside, with a frozen weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, scale = ctx.saved_tensors
        wide, dy = x.float(), (gradient * weight).float()
        share = (dy * wide).mean(-1, keepdim=True).mul_(scale.square())
        return dy.addcmul_(wide, share, value=-1).mul_(scale).to(x.dtype), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up of (gate, up), stacked (..., 2 x size) -> (..., size) (Shazeer 2020, arXiv 2002.05202).

    Keeps only its input for the backward pass.
    """

    @staticmethod
    def forward(ctx, stacked):
        ctx.save_for_backward(stacked)
        gate, up = stacked.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, gradient):
        (stacked,) = ctx.saved_tensors
        gate, up = stacked.chunk(2, dim=-1)
        result = torch.empty_like(stacked)
        dgate, dup = result.chunk(2, dim=-1)
        torch.mul(silu(gate), gradient, out=dup)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=dgate)
        return result


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
            module.forward = partial(_lora_forward, module, module.active_adapters[0])
        elif isinstance(module, Phi3RMSNorm):
            module.forward = partial(_norm_forward, module)
        elif isinstance(module, Phi3MLP) and isinstance(module.activation_fn, SiLUActivation):
            module.forward = partial(_mlp_forward, module)


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


def _lora_forward(layer, name, x):
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LoraLinear.apply(x, layer.base_layer, a, b, layer.scaling[name])


def _norm_forward(norm, x):
    return RmsNorm.apply(x, norm.weight, norm.variance_epsilon)


def _mlp_forward(mlp, x):
    return mlp.down_proj(SwiGlu.apply(mlp.gate_up_proj(x)))
