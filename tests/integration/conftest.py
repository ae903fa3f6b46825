"""Projects to run real stages in: the whole smoke run on the default model, and a tiny local model that trains in seconds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorabundle.config import Config, load_config
from tests.conftest import ROOT, WORDS, word_tokenizer

Stage = Callable[..., subprocess.CompletedProcess]
STAGES = ["fetch", "preprocess", "train", "evaluate", "sample", "report", "archive"]


def run_stage(stage: str, *overrides: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a stage as a command, as make does."""
    command = [sys.executable, "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml"]
    command += ["--set", *overrides] if overrides else []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert not check or finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(scope="session")
def fetched() -> Path:
    """The default model, which `make test` has fetched."""
    model = ROOT / "data/models/smollm2-135m-phi3"
    assert (model / "provenance.json").is_file(), "the default model is missing: run the tests with `make test`"
    return model


def files(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def project(tmp_path_factory, fetched):
    """A project in which the whole smoke run has been run; `.new` maps each stage to the files it added."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("config", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("wheels", ".image-*"))
    for name in ("data/raw/wheels", "data/models"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    before, new, output = files(folder), {}, {}
    for stage in STAGES:
        output[stage] = run_stage(stage, cwd=folder).stdout
        new[stage] = files(folder) - before
        before = files(folder)
    return type("Project", (), {"folder": folder, "new": new, "output": output, "run": folder / "outputs/smoke"})


@pytest.fixture
def tiny_project(workspace: Path, tiny_model) -> Path:
    """A project with a tiny Phi-3 in a local folder and a JSONL dataset over its vocabulary."""
    tiny_model.save_pretrained(workspace / "tiny")
    word_tokenizer().save_pretrained(workspace / "tiny")
    rows = []
    for number in range(120):
        first, second, third = (WORDS[number % 9], WORDS[number // 9 % 9], WORDS[number * 5 % 7])
        rows.append({"prompt": f"{first} {second} {third}", "completion": " ".join([second, first] * (1 + number % 4))})
    (workspace / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workspace


TINY = [
    "run=tiny",
    "model.name=tiny",
    "model.source=local",
    "model.path=tiny",
    "model.dtype=float32",
    "data.source=data.jsonl",
    "data.packages=[]",
    "data.max_train_examples=40",
    "lora.r=4",
    "train.num_train_epochs=20",
]


@pytest.fixture
def tiny_config(tiny_project: Path) -> Callable[..., Config]:
    """The tiny project's config, with further overrides."""
    return lambda *overrides: load_config(Path("config/smoke.yaml"), [*TINY, *overrides])
