"""Portable numerics on other CPUs: the same training natively and under emulation, with different numbers of threads.

Needs qemu-user (Debian's package); an emulated process takes minutes, most of them to load torch, transformers and TRL.
"""

import hashlib
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TINY, run_stage

CPUS = {
    "native, 1 thread": ([], "1"),
    "native, 2 threads": ([], "2"),
    "Haswell": (["qemu-x86_64", "-cpu", "Haswell"], "2"),  # Intel, 2013: AVX2 and no more
    "EPYC": (["qemu-x86_64", "-cpu", "EPYC"], "2"),  # AMD, 2017
}


@pytest.fixture(scope="module")
def adapters() -> dict[str, dict[str, str]]:
    """By CPU, the sha256 of each file of the adapter: filled as the test goes from one to the next."""
    return {}


@pytest.mark.parametrize("cpu", CPUS)
def test_training_gives_the_same_adapter_on(cpu, tiny_project, adapters):
    """The model card among its files has the validation loss."""
    emulator, threads = CPUS[cpu]
    overrides = [*TINY, "numerics=portable", "train.num_train_epochs=1"]
    for stage in ("fetch", "preprocess"):
        run_stage(stage, *overrides, cwd=tiny_project)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NUMERICS": "portable", "OMP_NUM_THREADS": threads}
    command = [
        *emulator,
        sys.executable,
        "-m",
        "lorabundle.train",
        "--config",
        "config/smoke.yaml",
        "--set",
        *overrides,
    ]
    finished = subprocess.run(command, cwd=tiny_project, env=environment, stderr=subprocess.PIPE, text=True)
    assert finished.returncode == 0, finished.stderr
    files = sorted((tiny_project / "outputs/tiny/adapter").iterdir())
    adapters[cpu] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    print(f"{cpu}: {adapters[cpu]['adapter_model.safetensors']}")
    assert all(hashes == adapters[cpu] for hashes in adapters.values()), adapters
