"""How a model's weights are kept and multiplied: as the config says and, where it says `auto`, what fits and is fastest here."""

from dataclasses import dataclass, field

import psutil
import torch
from transformers import AutoConfig

from lorabundle.compute import cpu_probe
from lorabundle.core import machine
from lorabundle.core.config import Config

# Bytes of a weight: int8 has a scale for each output, of which there are too few to count; nf4 has 4 bits and a scale for each 64
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
SHARE = 0.6  # of the memory that weights may take if `dtype` is auto: the rest is for training and for the system


@dataclass(frozen=True)
class Precision:
    """The formats of a run.

    Attributes:
        dtype: what the layers' linear weights are kept in: "float32", "bfloat16", "int8" or "nf4".
        compute_dtype: what they are multiplied in: "float32", "bfloat16" or "int8".
        activation_dtype: of norms, attention, LoRA's products and all states: "float32" or "bfloat16".
        embedding_dtype: what embeddings and head are kept in: "float32" or "bfloat16".
        int8_kernel: name in `int8.KERNELS` of the int8 products; None without them.
        reasons: why, for the log.
    """

    dtype: str
    compute_dtype: str
    activation_dtype: str
    embedding_dtype: str
    int8_kernel: str | None
    reasons: str = field(default="", compare=False, repr=False)  # they name rates and memory, which may change

    @property
    def is_plain(self) -> bool:
        """Whether one ordinary dtype is used throughout."""
        return self.dtype == self.compute_dtype == self.activation_dtype == self.embedding_dtype

    @property
    def facts(self) -> dict[str, str]:
        """What a run's files say of it."""
        return {
            "dtype": self.dtype,
            "compute_dtype": self.compute_dtype,
            "activation_dtype": self.activation_dtype,
        }


def resolve(config: Config) -> Precision:
    """The formats for a config and its base model, on this machine."""
    asked = config.model
    dtype, compute_dtype = asked.dtype, asked.compute_dtype
    why_kept = why_computed = "as the config says"
    if compute_dtype in ("float32", "bfloat16"):
        activation_dtype = compute_dtype
    else:
        activation_dtype = "float32" if dtype == "float32" else cpu_probe.decision()["dtype"]
    if dtype == "auto":
        dtype, why_kept = _what_fits(config, activation_dtype)
    if compute_dtype == "auto":
        compute_dtype, why_computed = activation_dtype, "as they are kept"
        if asked.dtype != "float32" and config.numerics == "fast":
            compute_dtype, why_computed = _what_is_fastest(dtype, activation_dtype)
    is_narrow = "bfloat16" in (dtype, activation_dtype) or (
        dtype != "float32" and _files_dtype(config) is torch.bfloat16
    )
    return Precision(
        dtype=dtype,
        compute_dtype=compute_dtype,
        activation_dtype=activation_dtype,
        embedding_dtype="bfloat16" if is_narrow else "float32",
        int8_kernel=cpu_probe.decision()["int8_kernel"] if compute_dtype == "int8" else None,
        reasons=f"weights kept in {dtype} ({why_kept}), multiplied in {compute_dtype} ({why_computed})",
    )


def _what_is_fastest(dtype: str, activation_dtype: str) -> tuple[str, str]:
    """The products for weights kept in `dtype`, and why: in int8 only if they are kept in it, because that changes results."""
    rates = cpu_probe.decision()["gflops"]
    is_faster = dtype == "int8" and rates["int8"] > cpu_probe.CLEARLY * rates[activation_dtype]
    measured = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items() if dtype == "int8" or name != "int8")
    return "int8" if is_faster else activation_dtype, f"fastest here; GFLOP/s: {measured}"


def _files_dtype(config: Config) -> torch.dtype:
    """What the base model's files are in: nothing is lost by keeping weights in the same."""
    return AutoConfig.from_pretrained(config.model_dir).dtype or torch.float32


def _what_fits(config: Config, activation_dtype: str) -> tuple[str, str]:
    """The widest format of use that leaves memory to train in, and why."""
    if config.numerics == "portable":
        return "float32", "portable numerics"
    formats, files = list(BYTES), _files_dtype(config)
    if config.model.compute_dtype == "int8":
        formats = ["int8", "nf4"]
    elif files is torch.bfloat16 or activation_dtype == "bfloat16":
        formats.remove("float32")
    stored = sum(file.stat().st_size for file in config.model_dir.glob("*.safetensors"))
    weights = stored / files.itemsize
    limit = machine.total_memory(psutil.virtual_memory().total)
    fitting = [name for name in formats if weights * BYTES[name] <= SHARE * limit.amount]
    chosen = fitting[0] if fitting else formats[-1]
    return chosen, f"{weights * BYTES[chosen] / 1e9:.1f} of {limit.amount / 1e9:.1f} GB {limit.origin}"
