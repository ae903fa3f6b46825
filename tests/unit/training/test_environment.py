"""The facts of a run's machine and software."""

import json
import os
import sys

import torch

from lorabundle.compute import cpu_probe
from lorabundle.training import environment

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
    assert len(facts["licences"]) == 97
    assert facts["licences"]["transformers"] == ["Apache 2.0 License"]
    assert json.loads(json.dumps(facts)) == facts


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
