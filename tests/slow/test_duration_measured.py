"""The time estimate compared with the time that real trainings and evaluations take, each in a new process: within 25 %."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.slow.test_memory_measured import INT8, LARGER, project  # noqa: F401  the project is a fixture

SETTINGS = {
    "default": [],
    "small passes": ["train.max_tokens=256"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "short rows": ["data.max_length=96"],
    "int8": INT8,
    "larger model, 4 bits in float32": [*LARGER, "model.dtype=nf4", "model.compute_dtype=float32", "train.max_steps=3"],
}
SAMPLE = ["default"]  # QUICK=1
COMMON = ["train.per_device_train_batch_size=16", "train.max_steps=8", "train.eval_steps=4", "train.logging_steps=2"]
COMMON += ["data.packages=[more-itertools, boltons, toolz]", "data.max_length=256"]
COMMON += ["data.max_train_examples=128", "data.max_val_examples=16", "data.max_test_examples=48", "lora.r=16"]
COMMON += ["evaluate.batch_size=16", "evaluate.max_new_tokens=64"]
STAGES = ("training", "train"), ("evaluation", "evaluate")


@pytest.mark.parametrize("name", SAMPLE if os.environ.get("QUICK") else SETTINGS)
def test_estimate_is_near_the_measured_time(project, name):  # noqa: F811
    overrides = [*COMMON, *SETTINGS[name], "run=timed"]
    environment, said = os.environ | {"PYTHONPATH": str(ROOT / "src")}, ""
    for stage in ("fetch", "preprocess", "train", "evaluate"):
        command = [sys.executable, "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml", "--set", *overrides]
        finished = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0, finished.stderr
        said += finished.stderr + finished.stdout
    first, corrected = (line for line in said.splitlines() if "estimated time" in line)
    ratios = {}
    for words, stage in STAGES:
        measured = json.loads((project / f"outputs/timed/stages/{stage}.json").read_text())["seconds"]
        for when, line in (("before", first), ("corrected", corrected)):
            estimated = spoken_seconds(re.search(rf"{words} ([\d.]+ \w+)", line)[1])
            ratios[f"{words}, {when}"] = estimated / measured
            print(f"{name}: {words} took {measured:.0f} s, {when} {estimated:.0f} s ({estimated / measured - 1:+.0%})")
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), abs=0.25)


def spoken_seconds(text: str) -> float:
    """The seconds of "95 s" or "2.5 min"."""
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "hours": 3600}[unit]
