"""The memory estimate compared with the measured peak of real trainings, each in a new process: within 15 %."""

import json
import os
import shutil
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from lorabundle.core.files import atomic_dir
from tests.conftest import ROOT, make_project

LARGER = ["model.name=larger", "model.source=local", "model.path=larger"]
BFLOAT16 = ["model.dtype=bfloat16", "model.compute_dtype=bfloat16"]
INT8 = ["model.dtype=int8", "model.compute_dtype=int8"]
SETTINGS = {
    "default": [],
    "bfloat16": BFLOAT16,
    "small passes": ["train.max_tokens=256"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "checkpointing, bfloat16": ["train.gradient_checkpointing=true", *BFLOAT16],
    "short rows": ["data.max_length=64"],
    "short rows, bfloat16": ["data.max_length=64", *BFLOAT16],
    "int8": INT8,
    "larger model": LARGER,
    "larger model, bfloat16": [*LARGER, *BFLOAT16],
    "larger model, bfloat16 in float32": [*LARGER, "model.dtype=bfloat16", "model.compute_dtype=float32"],
    "larger model, int8": [*LARGER, *INT8],
    "larger model, int8 in float32": [*LARGER, "model.dtype=int8", "model.compute_dtype=float32"],
    "larger model, 4 bits": [*LARGER, "model.dtype=nf4", "model.compute_dtype=bfloat16"],
    "larger model, 4 bits in float32": [*LARGER, "model.dtype=nf4", "model.compute_dtype=float32"],
    "larger model, 4 bits in int8": [*LARGER, "model.dtype=nf4", "model.compute_dtype=int8"],
}
SAMPLE = [
    "default",
    "short rows, bfloat16",
    "larger model, int8",
    "larger model, 4 bits in float32",
]  # QUICK=1: one of each kind
COMMON = ["train.per_device_train_batch_size=16", "train.max_steps=3", "train.eval_steps=100", "train.save_steps=100"]
COMMON += ["data.max_val_examples=4", "lora.r=16"]


def make_larger(folder: Path) -> None:
    """Save a model of 0.5 B parameters. In a new process, because a child's peak memory starts at its parent's."""
    torch.manual_seed(0)
    shape = {"vocab_size": 49152, "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 20}
    shape |= {"num_attention_heads": 20, "num_key_value_heads": 20, "tie_word_embeddings": True, "pad_token_id": 2}
    with atomic_dir(folder) as temporary:
        Phi3ForCausalLM(Phi3Config(**shape)).save_pretrained(temporary)
        for pattern in ("*token*", "*.jinja"):
            for file in (ROOT / "data/models/smollm2-135m-phi3").glob(pattern):
                shutil.copy(file, temporary)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the default model, and one of 0.5 B parameters with random weights."""
    folder = make_project(tmp_path_factory.mktemp("memory"), "data/raw/wheels", "data/models/smollm2-135m-phi3")
    process = get_context("spawn").Process(target=make_larger, args=(folder / "larger",))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


@pytest.mark.parametrize("name", SAMPLE if os.environ.get("QUICK") else SETTINGS)
def test_estimate_is_near_the_measured_peak(project, name):
    overrides = [*COMMON, *SETTINGS[name], "run=measured"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for stage in ("fetch", "preprocess", "train"):
        command = [sys.executable, "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml", "--set", *overrides]
        finished = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0, finished.stderr
    run = project / "outputs/measured"
    estimate = sum(json.loads((run / "environment.json").read_text())["memory_estimate_bytes"].values())
    peak = json.loads((run / "stages/train.json").read_text())["peak_rss_bytes"]
    print(f"{name}: estimated {estimate / 1e9:.2f} GB, measured {peak / 1e9:.2f} GB ({estimate / peak - 1:+.0%})")
    assert estimate == pytest.approx(peak, rel=0.15)
