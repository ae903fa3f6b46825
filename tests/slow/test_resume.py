"""Killed at any moment and run again, a training ends with the adapter of an uninterrupted one, in both numerics modes and in int8."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, make_project, run_stage

KILLS = 20  # of each of the 16 kinds of moments one, and four more
STEP = 4 if os.environ.get("QUICK") else 1  # a sample takes five moments in each mode, never the same ones
# Two epochs of two steps, with a checkpoint after each step: in the middle of an epoch and at its end
SETTINGS = ["data.max_train_examples=8", "train.max_steps=-1", "train.num_train_epochs=2", "train.save_steps=1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The smoke config's project, up to its splits."""
    folder = make_project(tmp_path_factory.mktemp("resume"), "data/raw/wheels", "data/models")
    for stage in ("fetch", "preprocess"):
        run_stage(stage, *SETTINGS, cwd=folder)
    return folder


@pytest.mark.parametrize(("mode", "first"), [("fast", 0), ("portable", STEP // 2), ("int8", STEP // 4)])
def test_killed_anywhere_it_ends_with_the_same_adapter(project, mode, first):
    numerics, *formats = {"int8": ["fast", "model.dtype=int8", "model.compute_dtype=int8"]}.get(mode, [mode])
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "NUMERICS": numerics}
    command = [
        sys.executable,
        "-m",
        "tests.slow.kill_points",
        str(KILLS),
        str(first),
        str(STEP),
        *SETTINGS,
        f"numerics={numerics}",
        *formats,
    ]
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    uninterrupted, *killed = map(json.loads, finished.stdout.splitlines())
    print(f"{mode}: {uninterrupted['adapter']} uninterrupted")
    for row in killed:
        print(f"{mode}: {row['adapter'][:16]} killed at moment {row['moment']}")
    assert len({row["moment"] for row in killed}) >= KILLS // STEP
    assert {row["adapter"] for row in killed} == {uninterrupted["adapter"]}
