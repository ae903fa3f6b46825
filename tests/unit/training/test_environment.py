"""The facts of a run's machine and software."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from lorabundle.compute import cpu_probe
from lorabundle.training import environment
from tests.conftest import ROOT

RATES = {"float32": 100.0, "bfloat16": 200.0, "int8": 150.0}
DECISION = {"gflops": RATES, "int8_kernel": "int_mm", "dtype": "bfloat16", "attn_implementation": "sdpa"}


def test_environment_of_a_config(smoke, monkeypatch):
    monkeypatch.setattr(cpu_probe, "decision", lambda: DECISION)
    monkeypatch.setenv("LORABUNDLE_ENGINE", "podman")
    monkeypatch.setenv("LORABUNDLE_IMAGE", "sha256:1")
    monkeypatch.setenv("LORABUNDLE_COMMIT", "abc")
    facts = environment.describe(smoke)
    assert (facts["engine"], facts["image"], facts["commit"]) == ("podman", "sha256:1", "abc")
    assert (facts["numerics"], facts["dtype"], facts["attn_implementation"]) == ("fast", "float32", "eager")
    assert facts["probe"] == DECISION
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["python"] == sys.version.split()[0]
    # Without the "+cpu": on aarch64 torch says 2.10.0+cpu of itself, and its wheel says 2.10.0
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(facts["licences"]) == 98
    assert facts["licences"]["transformers"] == ["Apache 2.0 License"]
    assert json.loads(json.dumps(facts)) == facts


FOLDER = Path(sys.prefix) / "openmp"
SAME_STEP = """
import ctypes, sys, torch
from tests.conftest import random_phi3
torch.set_num_threads(2)
model, ids = random_phi3(), torch.arange(6 * 64).reshape(6, 64) % 16
model(input_ids=ids, labels=ids).loss.backward()
for weight in model.parameters():
    print(weight.grad.double().sum().item().hex())
libraries = [line.split() for line in open("/proc/self/maps")]
if sys.argv[1]:
    address = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    libraries = [part for part in libraries if address in range(*(int(end, 16) for end in part[0].split("-")))]
names = [part[-1].split("/")[-1] for part in libraries]
print(next(name for name in names if name.startswith(("libomp", "libgomp"))))
"""


def test_the_locked_openmp_runtime_takes_the_place_of_torchs_and_changes_no_byte():
    printed = {}
    for library in ("", "libomp.so"):
        variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | {
            "LD_PRELOAD": library
        }
        variables |= {"LD_LIBRARY_PATH": str(FOLDER), "KMP_TOPOLOGY_METHOD": "flat", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        command = [sys.executable, "-c", SAME_STEP, library]
        finished = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        *printed[library], used = finished.stdout.splitlines()
        assert used.startswith(library or "libgomp")
    assert len(printed[""]) > 10
    assert printed[""] == printed["libomp.so"]


def test_licence_of_the_openmp_runtime():
    assert environment.licences("pyomp") == ["BSD-2-Clause"]


def test_licence_of_a_package_that_is_not_installed():
    assert environment.licences("no-such-package") == []


def test_auto_is_what_the_probe_chose(saved_tiny, monkeypatch):
    monkeypatch.setattr(cpu_probe, "decision", lambda: DECISION)
    facts = environment.describe(saved_tiny("model.dtype=auto", "model.attn_implementation=auto"))
    assert [facts[f"{name}dtype"] for name in ("", "compute_", "activation_")] == ["bfloat16"] * 3
    assert facts["attn_implementation"] == "sdpa"


def test_stage_that_was_started_by_hand(smoke, monkeypatch):
    monkeypatch.setattr(cpu_probe, "decision", lambda: DECISION)
    for name in ("LORABUNDLE_ENGINE", "LORABUNDLE_IMAGE", "LORABUNDLE_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    facts = environment.describe(smoke)
    assert (facts["engine"], facts["image"], facts["commit"]) == ("none (run by hand)", "", "unknown")


def test_memory_is_the_machines():
    """As /proc/meminfo has it, in KiB."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        total = next(int(line.split()[1]) for line in file if line.startswith("MemTotal"))
    assert environment.total_memory_bytes() == total * 1024
