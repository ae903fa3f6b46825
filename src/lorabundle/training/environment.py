"""The machine and software of a run: CPU, threads, dtype, engine, versions, commit. Only these facts may differ between equal runs."""

import os
import platform
import sys
from importlib.metadata import distributions, version

import torch

from lorabundle.compute import cpu_probe, precision
from lorabundle.compute.load import resolve_attention
from lorabundle.core import machine
from lorabundle.core.config import Config
from lorabundle.core.locks import installed_locks, read_lock
from lorabundle.core.package_licence import stated_licences

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "evaluate", "tokenizers", "numpy")


def total_memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe(config: Config) -> dict:
    """The machine and software of this process, for `environment.json`.

    `engine`, `image` and `commit` are what `docker/run.sh` found on the host and passed in the environment.
    """
    return {
        "schema": 1,
        "cpu": cpu_probe.cpu_model(),
        "cores": machine.cores(),
        "memory_bytes": total_memory_bytes(),
        "threads": torch.get_num_threads(),
        "numerics": config.numerics,
        **precision.resolve(config).facts,
        "attn_implementation": resolve_attention(config.model.attn_implementation),
        "probe": cpu_probe.decision(),
        "engine": os.environ.get("LORABUNDLE_ENGINE", "none (run by hand)"),
        "image": os.environ.get("LORABUNDLE_IMAGE", ""),
        "commit": os.environ.get("LORABUNDLE_COMMIT", "unknown"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "licences": {name: licences(name) for lock in installed_locks(platform.machine()) for name in read_lock(lock)},
    }


def licences(package: str) -> list[str]:
    """What an installed package states; [] also if it is not installed, as when this is run by hand in another environment."""
    found = next(distributions(name=package, path=[*sys.path, f"{sys.prefix}/openmp"]), None)
    return [] if found is None else stated_licences(found.metadata)
