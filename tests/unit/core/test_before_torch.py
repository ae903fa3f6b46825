"""What is set before torch is loaded, and that nothing else happens on import."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.unit.test_layers import modules

SHOW = "import os, lorabundle; print(os.environ.get('HF_HUB_OFFLINE'), os.environ.get('ONEDNN_MAX_CPU_ISA'))"


@pytest.mark.parametrize(("numerics", "expected"), [("fast", "1 None"), ("portable", "1 AVX2")])
def test_libraries_are_offline_and_capped_if_portable(numerics, expected):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"NUMERICS": numerics, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected


def test_only_fetch_may_use_the_network():
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(ROOT / "src")}
    code = "import runpy, sys; sys.orig_argv = ['python', '-m', 'lorabundle.fetch']; " + SHOW
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None None"


def test_importing_every_module_changes_nothing_else():
    """No variable of the environment, no level of a log, no signal handler, no open file."""
    code = (
        "import importlib, logging, os, signal, lorabundle\n"
        "import torch, transformers, peft, trl, datasets, evaluate, sklearn, scipy.stats, matplotlib, bitsandbytes  # what these do on import is theirs\n"
        "state = lambda: (*sorted(os.environ.items()), signal.getsignal(2), logging.getLogger().level, logging.getLogger().handlers[:],\n"
        "    torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), matplotlib.get_backend(auto_select=False))\n"
        "before = state()\n"
        f"for name in {modules()!r}: importlib.import_module('lorabundle.' + name)\n"
        "assert state() == before, [after for after in state() if after not in before]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
