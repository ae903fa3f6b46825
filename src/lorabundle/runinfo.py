"""What a run ran on: CPU, threads, dtype, engine, versions, commit. The only facts that may differ between equal runs."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

from lorabundle.config import Config
from lorabundle.modeling import cpu_has_amx, resolve_dtype

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "evaluate", "tokenizers", "numpy")


def cpu_model() -> str:
    """The CPU's name as Linux gives it."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return match[1].strip() if match else platform.processor() or "unknown"


def total_memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def environment(config: Config) -> dict:
    """The machine and software of this process, for `environment.json`.

    `engine`, `image` and `commit` are what `docker/run.sh` found on the host and passed in the environment.
    """
    return {
        "schema": 1,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": total_memory_bytes(),
        "amx": cpu_has_amx(),
        "threads": torch.get_num_threads(),
        "dtype": str(resolve_dtype(config.model.dtype)).removeprefix("torch."),
        "engine": os.environ.get("LORABUNDLE_ENGINE", "none (run by hand)"),
        "image": os.environ.get("LORABUNDLE_IMAGE", ""),
        "commit": os.environ.get("LORABUNDLE_COMMIT", "unknown"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
