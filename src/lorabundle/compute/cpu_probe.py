"""Which dtype and which attention train fastest on this CPU: measured once (3.5 s on an EPYC Zen 3), then kept in a file.

A CPU's flags do not tell: bfloat16 is twice as fast as float32 on a Zen 4, and slower on Intel CPUs before AMX, though both
have AVX512-BF16. The measurement is in `outputs/.probe.json` for the same CPU, software and threads, so that all stages of a
run, with either engine, make the same choice.
"""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from lorabundle.compute import int8, packing
from lorabundle.core.config import NUMERICS
from lorabundle.core.files import read_json, writable, write_json

log = logging.getLogger("lorabundle")

CACHE = Path("outputs/.probe.json")
CAPS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
)  # may limit the instructions
# The less exact dtype, or the less usual attention, must be this many times as fast, so that noise cannot decide
CLEARLY = 1.25
SECONDS = 0.4  # for each measurement
SIZE = 960  # of the square matrices that are multiplied: near the tokens of a forward pass, and not a power of two
GROUP = packing.Group(
    num_rows=4, length=96, shared_tokens=24
)  # for the measurement of attention: rows of a usual length
HEADS, KEY_HEADS, HEAD_SIZE = 9, 3, 64  # the default model's


def cpu_model() -> str:
    """The CPU's name as Linux gives it; on aarch64, where Linux gives numbers, as `lscpu` reads them."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    if not match and shutil.which("lscpu"):
        said = subprocess.run(["lscpu"], env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False)
        match = re.search(r"Model name:\s*(.+)", said.stdout)
    return match[1].strip() if match else "unknown"


@cache
def decision() -> dict:
    """What to compute with on this machine, and the measurements behind it.

    Returns {"machine", "gflops": {dtype: rate}, "int8_kernel", "attention_ms": {name: time}, "dtype", "attn_implementation"}.
    """
    machine = {"cpu": cpu_model(), "torch": torch.__version__, "threads": torch.get_num_threads(), "numerics": NUMERICS}
    machine |= {name: os.environ[name] for name in CAPS if name in os.environ}
    if CACHE.is_file():
        known = read_json(CACHE, "Delete it and run the same command again, which measures again.")
        if known["machine"] == machine and "int8_kernel" in known:  # else it is of an earlier version
            return known
    result = {"machine": machine} | measure()
    with writable(CACHE.parent):
        write_json(CACHE, result)
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in result["gflops"].items())
    log.info(
        "probe: GFLOP/s %s; fastest here: %s with %s attention", rates, result["dtype"], result["attn_implementation"]
    )
    return result


def measure() -> dict:
    """Matrix products in float32, bfloat16 and int8, then both kinds of attention, forward and backward, in the faster float.

    The rate of int8 is with its rounding and rescaling. Portable numerics always use float32 and eager attention.
    """
    rates = {name: 2e-9 * SIZE**3 / seconds(product(getattr(torch, name))) for name in ("float32", "bfloat16")}
    kernels = {name: 2e-9 * SIZE**3 / seconds(int8_product(kernel)) for name, kernel in usable_kernels().items()}
    kernel = max(kernels, key=kernels.get)
    rates["int8"] = kernels[kernel]
    dtype = "bfloat16" if NUMERICS == "fast" and rates["bfloat16"] > CLEARLY * rates["float32"] else "float32"
    times = {name: 1e3 * seconds(attention(core, getattr(torch, dtype))) for name, core in packing.CORES.items()}
    chosen = "sdpa" if NUMERICS == "fast" and times["eager"] > CLEARLY * times["sdpa"] else "eager"
    return {
        "gflops": rates,
        "int8_kernel": kernel,
        "attention_ms": times,
        "dtype": dtype,
        "attn_implementation": chosen,
    }


def seconds(work: Callable[[], object]) -> float:
    """Shortest time of `work`, which is repeated for about `SECONDS`: other work on the machine can only add to it."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    # A slow one once is enough: bfloat16 on an EPYC Zen 3 takes 0.7 s, and float32 0.01 s
    while time.perf_counter() < end or (len(times) < 3 and times[0] < SECONDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def product(dtype: torch.dtype) -> Callable[[], object]:
    """One product of two square matrices."""
    left, right = torch.ones(2, SIZE, SIZE, dtype=dtype)
    return lambda: left @ right


def usable_kernels() -> dict[str, int8.Kernel]:
    """The int8 kernels whose sums are right on this CPU. torch's own always are."""
    return {name: kernel for name, kernel in int8.KERNELS.items() if int8.is_exact(kernel)}


def int8_product(kernel: int8.Kernel) -> Callable[[], object]:
    """One product of float rows with an int8 weight."""
    rows, weight = torch.ones(SIZE, SIZE), torch.ones(SIZE, SIZE, dtype=torch.int8)
    return lambda: kernel.multiply(*int8.rounded(rows, kernel.limit), weight, None, False)


def attention(core: Callable, dtype: torch.dtype) -> Callable[[], object]:
    """Forward and backward of one layer's attention over `GROUP`."""
    num_keys = GROUP.shared_tokens + GROUP.length
    query = torch.ones(HEADS, GROUP.num_rows, GROUP.length, HEAD_SIZE, dtype=dtype, requires_grad=True)
    key = torch.ones(KEY_HEADS, GROUP.num_rows, num_keys, HEAD_SIZE, dtype=dtype, requires_grad=True)
    mask = packing.mask(GROUP, None, dtype)
    return lambda: core(query, key, key, mask, HEAD_SIZE**-0.5, 0.0).sum().backward()
