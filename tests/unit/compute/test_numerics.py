"""Portable numerics: the same bytes with any number of threads, a check that can fail, and no mixing of the modes."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorabundle.compute import numerics
from lorabundle.core.config_file import load_config
from lorabundle.core.errors import ConfigError, NumericsError
from tests.conftest import ROOT

# Run in a new process, because it changes how torch computes: fingerprints with 1, 2, 3 and 8 threads, and how far the
# replaced kernels are from float64
SCRIPT = """
import json, torch
from transformers import AttentionInterface
from lorabundle.compute import numerics, packing
by_import = [numerics._override_kernels.cache_info().currsize, "packed_eager" in AttentionInterface().valid_keys()]
numerics.use_kernels()
numerics.use_kernels()  # a second call changes nothing
found = []
for threads in (1, 2, 3, 8):
    torch.set_num_threads(threads)
    found.append(numerics.fingerprints())
a, b, c = torch.randn(3, 5, 70), torch.randn(3, 70, 9), torch.randn(3, 5, 9)
exact = lambda value: value.double()
pairs = {
    "mm": (a[0] @ b[0], exact(a[0]) @ exact(b[0])),
    "mm transposed": (b[0].T @ a[0].T, (exact(a[0]) @ exact(b[0])).T),
    "mm out": (torch.mm(a[0], b[0], out=torch.empty(5, 9)), exact(a[0]) @ exact(b[0])),
    "addmm_": (c[0].clone().addmm_(a[0], b[0], beta=0.5, alpha=2), 0.5 * exact(c[0]) + 2 * (exact(a[0]) @ exact(b[0]))),
    "bmm": (a @ b, exact(a) @ exact(b)),
    "baddbmm": (torch.baddbmm(c, a, b, beta=0.5, alpha=2), 0.5 * exact(c) + 2 * (exact(a) @ exact(b))),
    "norm": (torch.linalg.vector_norm(a), exact(a).square().sum().sqrt()),
    "norm of rows": (torch.linalg.vector_norm(a, dim=-1), exact(a).square().sum(-1).sqrt()),
    "bfloat16": (torch.eye(4).bfloat16() @ torch.eye(4).bfloat16(), torch.eye(4)),
}
errors = {k: (x.double() - y).abs().max().item() for k, (x, y) in pairs.items()}
print(json.dumps({"by_import": by_import, "found": found, "errors": errors}))
"""


@pytest.fixture(scope="module")
def portable() -> dict:
    environment = os.environ | {"NUMERICS": "portable", "PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_importing_replaces_and_registers_nothing(portable):
    assert portable["by_import"] == [0, False]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="portable numerics are for x86-64")
def test_this_machine_computes_the_reference_with_any_number_of_threads(portable):
    reference = json.loads(numerics.REFERENCE.read_text())
    assert len(reference) > 20
    assert portable["found"] == [reference] * 4


def test_replaced_kernels_are_right(portable):
    assert len(portable["errors"]) == 9
    assert {name: error for name, error in portable["errors"].items() if not error < 2e-5} == {}


def test_other_numbers_are_noticed_and_named():
    reference = json.loads(numerics.REFERENCE.read_text())
    numerics.check(reference, reference)
    with pytest.raises(NumericsError, match=r"These operations differ: exp, softmax\."):
        numerics.check(reference | {"exp": "0" * 64, "softmax": "1" * 64}, reference)


def test_fast_numerics_are_not_the_reference():
    """Else the check would pass on a machine that does not limit its instructions."""
    reference, found = json.loads(numerics.REFERENCE.read_text()), numerics.fingerprints()
    assert found.keys() == reference.keys()
    assert found["linear"] != reference["linear"]


def test_process_started_in_the_other_mode_is_refused(workspace):
    run_config = load_config(Path("config/smoke.yaml"), ["numerics=portable"])
    with pytest.raises(NumericsError, match="was started with NUMERICS=fast"):
        numerics.prepare(run_config)


def test_portable_is_for_x86_64(workspace, monkeypatch):
    monkeypatch.setattr(numerics, "NUMERICS", "portable")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(NumericsError, match=r"for x86-64 CPUs, and this machine is aarch64\. Use NUMERICS=fast"):
        numerics.prepare(load_config(Path("config/smoke.yaml"), ["numerics=portable"]))


@pytest.mark.parametrize("setting", ["model.dtype=bfloat16", "model.dtype=int8", "model.load_in_4bit=true"])
def test_portable_is_for_float32(workspace, setting):
    with pytest.raises(ConfigError, match="numerics: portable is for float32"):
        load_config(Path("config/smoke.yaml"), ["numerics=portable", setting])


def test_prepare_turns_deterministic_algorithms_on(smoke):
    numerics.prepare(smoke)
    assert torch.are_deterministic_algorithms_enabled()
