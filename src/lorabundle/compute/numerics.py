"""How numbers are computed: `fast`, or `portable`, which gives the same bytes on every x86-64 CPU with AVX2.

Portable numerics are float32, with a limited instruction set (`core/before_torch.py` sets the limit) and matrix products by
oneDNN: MKL's path for equal results on all CPUs takes three times as long. `prepare` computes some operations on fixed numbers
and compares their bytes with `portable.json`. A machine that would give other results fails in the first seconds, with the
operation's name.

Run as: NUMERICS=portable python -m lorabundle.compute.numerics > src/lorabundle/compute/portable.json
"""

import json
import math
import platform
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from lorabundle.compute.fused import Apply, RmsNorm, SwiGlu
from lorabundle.core.config import NUMERICS, Config
from lorabundle.core.errors import NumericsError
from lorabundle.core.files import read_json, sha256_bytes

REFERENCE = Path(__file__).with_name("portable.json")
NORM_ROW = 1024  # numbers that a norm adds up at a time


def prepare(run_config: Config) -> None:
    """Make torch compute in the mode that the config asks for, before anything is computed.

    Raises:
        NumericsError: the process was started in the other mode, the CPU is none that has the mode, or this machine computes something differently from the
            one that wrote `portable.json`.
    """
    if run_config.numerics != NUMERICS:
        raise NumericsError(
            f"The config says numerics: {run_config.numerics}, but this process was started with NUMERICS={NUMERICS}. The mode "
            f"must be known before torch is loaded. Run it through make, or set NUMERICS={run_config.numerics}."
        )
    if NUMERICS == "portable" and platform.machine() != "x86_64":
        raise NumericsError(
            f"Portable numerics are for x86-64 CPUs, and this machine is {platform.machine()}. Use NUMERICS=fast: here too it "
            f"gives the same bytes each time with the same number of threads."
        )
    use_kernels()
    if NUMERICS == "portable":
        check(fingerprints(), read_json(REFERENCE, "It is a file of the source code: restore it."))


def check(found: dict[str, str], expected: dict[str, str]) -> None:
    """Compare the operations' fingerprints.

    Raises:
        NumericsError: some differ; the message names them.
    """
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        raise NumericsError(
            f"This machine does not compute what {REFERENCE.name} says, so the result would not be the portable one. These "
            f"operations differ: {', '.join(different)}. Check that the locked packages are installed (`make image`) and that "
            f"the CPU has AVX2; or use NUMERICS=fast, whose numbers differ a little from CPU to CPU."
        )


# --- matrix products ----------------------------------------------------------------------------------------------------


def use_kernels() -> None:
    """Make this process use torch's deterministic algorithms and, if portable, kernels that give the same bytes everywhere."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; nothing here reads such memory
    if NUMERICS == "portable":
        _override_kernels()


@cache
def _override_kernels() -> torch.library.Library:
    """Replace torch's matrix products and norms, once: the kernels are in use as long as the library object, which is cached, lives.

    The products are oneDNN's instead of MKL's, which still computes what is not listed here. A norm of a large tensor is the only
    reduction here that torch splits by the number of threads.
    """
    library = torch.library.Library("aten", "IMPL")
    for name, function in {
        "mm": _product,
        "mm.out": lambda a, b, *, out: out.copy_(_product(a, b)),
        "addmm_": lambda self, a, b, *, beta=1, alpha=1: self.mul_(beta).add_(_product(a, b), alpha=alpha),
        "bmm": _batched,
        "baddbmm": lambda self, a, b, *, beta=1, alpha=1: _batched(a, b).mul_(alpha).add_(self, alpha=beta),
        "linalg_vector_norm": _norm,
    }.items():
        with warnings.catch_warnings(action="ignore"):  # torch's, that this overrides its own
            library.impl(name, function, "CPU")
    return library


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product (n, m) of (n, k) and (k, m). Measured with 1 to 32 threads: the same bytes."""
    if a.dtype is torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    out = a.new_empty(len(a), b.shape[1])
    return torch.ops.aten.addmm.out(out, a, b, beta=0, out=out)  # torch's own, for other dtypes


def _batched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.stack([_product(left, right) for left, right in zip(a, b, strict=True)])


def _norm(values, ord=2, dim=None, keepdim=False, *, dtype=None):
    if ord != 2 or dim is not None or keepdim:
        out = values.new_empty(0, dtype=dtype)
        return torch.ops.aten.linalg_vector_norm.out(values, ord, dim, keepdim, dtype=dtype, out=out)
    rows = functional.pad(values.flatten().double(), (0, -values.numel() % NORM_ROW)).view(-1, NORM_ROW)
    squares = rows.square().sum(dim=1)  # one thread adds up a row
    return torch.tensor(math.sqrt(math.fsum(squares.tolist())), dtype=dtype or values.dtype)


# --- fingerprints -------------------------------------------------------------------------------------------------------


def fingerprints() -> dict[str, str]:
    """The operations of training and evaluation, forward and backward: name -> sha256 of the bytes of their results.

    Their inputs are exact on every machine, and large enough to occupy several threads.
    """
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randint(-1024, 1025, shape, generator=generator) / 256  # -4 to 4, exact in float32

    def gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
        """The function's value and its gradients."""
        inputs = [value.requires_grad_() for value in inputs]
        value = function(*inputs)
        return [value, *torch.autograd.grad(value, inputs, numbers(*value.shape))]

    wide, labels = numbers(160, 2304), torch.randint(0, 2304, (160,), generator=generator)
    positive = numbers(160, 576).abs() + 1
    queries, keys, values = numbers(12, 96, 64), numbers(12, 120, 64), numbers(12, 120, 64)
    heads = [states.unflatten(0, (1, 12)) for states in (queries, keys, values)]
    operations: dict[str, Callable[[], list[torch.Tensor]]] = {
        "linear": lambda: gradients(functional.linear, numbers(160, 576), numbers(1536, 576)),
        "linear of low rank": lambda: gradients(functional.linear, numbers(160, 576), numbers(16, 576)),
        "addmm_": lambda: [numbers(160, 576).addmm_(numbers(160, 16), numbers(16, 576), alpha=2.0)],
        "mm, out": lambda: [torch.mm(numbers(160, 576), numbers(576, 64), out=torch.empty(160, 64))],
        "batched product": lambda: gradients(torch.bmm, queries, keys.transpose(1, 2)),
        "softmax": lambda: gradients(lambda x: x.softmax(dim=-1), wide),
        "log-softmax": lambda: gradients(lambda x: x.log_softmax(dim=-1), wide),
        "cross entropy": lambda: gradients(lambda x: functional.cross_entropy(x, labels, reduction="none"), wide),
        "scaled dot product attention": lambda: gradients(functional.scaled_dot_product_attention, *heads),
        "SiLU": lambda: gradients(functional.silu, wide),
        "SwiGLU": lambda: gradients(lambda x: Apply.apply(x, SwiGlu()), wide),
        "RMS norm": lambda: gradients(lambda x: Apply.apply(x, RmsNorm(torch.ones(576), 1e-5)), numbers(160, 576)),
        "mean": lambda: gradients(lambda x: x.mean(dim=-1), wide),
        "exp": lambda: [wide.exp()],
        "log": lambda: [positive.log()],
        "reciprocal square root": lambda: [positive.rsqrt()],
        "power": lambda: [torch.pow(100_000.0, positive)],
        "sine and cosine": lambda: [wide.sin(), wide.cos()],
        "sum in float64": lambda: [numbers(256).exp().double().sum()],
        "norm of the gradients": lambda: list(torch._foreach_norm([wide.detach(), positive])),
        "AdamW": lambda: _adamw(numbers(160, 576), numbers(160, 576)),
        "random numbers": _random,
    }
    return {
        name: sha256_bytes(b"".join(value.detach().contiguous().numpy().tobytes() for value in operation()))
        for name, operation in operations.items()
    }


def _adamw(weight: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Two steps of the optimizer that training uses."""
    weight.requires_grad_()
    weight.grad = gradient
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)
    for _ in range(2):
        optimizer.step()
    return [weight, *(value for value in optimizer.state[weight].values())]


def _random() -> list[torch.Tensor]:
    """Random numbers as for LoRA's A matrices and for the order of the rows."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.nn.init.kaiming_uniform_(torch.empty(64, 576), a=math.sqrt(5), generator=generator)
    return [uniform, torch.randn(4096, generator=generator), torch.randperm(4096, generator=generator)]


def main() -> None:
    """Print this machine's fingerprints."""
    if NUMERICS != "portable":
        sys.exit("numerics: error: Set NUMERICS=portable; fast numerics have no reference.")
    use_kernels()
    print(json.dumps(fingerprints(), indent=2))


if __name__ == "__main__":
    main()
