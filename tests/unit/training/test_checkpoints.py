"""Checkpoints: which one is resumed from, and what makes another training of one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorabundle.core.files import write_json
from lorabundle.training import checkpoints

STEPS = (2, 10, 4)  # in the order of names, 10 would come before 2


@pytest.fixture
def saved(smoke) -> Path:
    """The folder of a run that was stopped after three checkpoints, all sealed as training "a"."""
    folder = checkpoints.folder(smoke)
    for step in STEPS:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "optimizer.pt").write_text(f"step {step}")
        checkpoints.seal(checkpoint, "a")
    return folder


def test_newest_is_resumed_from(smoke, saved):
    assert checkpoints.last_checkpoint(smoke, "a") == saved / "checkpoint-10"


@pytest.mark.parametrize("name", ["optimizer.pt", checkpoints.COMPLETE])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"damaged")], ids=["missing", "damaged"])
def test_incomplete_or_damaged_one_is_ignored(smoke, saved, name, damage):
    damage(saved / "checkpoint-10" / name)
    assert checkpoints.last_checkpoint(smoke, "a") == saved / "checkpoint-4"


def test_other_training_starts_from_the_beginning(smoke, saved):
    assert checkpoints.last_checkpoint(smoke, "b") is None
    assert not saved.exists()


def test_finished_training_starts_from_the_beginning(smoke, saved):
    checkpoints.mark_finished(smoke, "a")
    assert checkpoints.last_checkpoint(smoke, "a") is None
    assert not saved.exists()


def test_first_training_has_nothing_to_resume(smoke):
    assert checkpoints.last_checkpoint(smoke, "a") is None


# --- fingerprint --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fingerprint(smoke, monkeypatch, tmp_path_factory) -> Callable[..., str]:
    """The fingerprint of the smoke run's training by a copy of the package; a test may change a file of the copy first."""
    package = tmp_path_factory.mktemp("code") / "lorabundle"
    shutil.copytree(checkpoints.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(checkpoints, "PACKAGE", package)
    write_json(smoke.model_dir / "provenance.json", {"files": {}})

    def of(changed: str | None = None, manifest: dict | None = None, **settings) -> str:
        if changed:
            path = package / changed
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((path.read_bytes() if path.exists() else b"") + b"\n")
        return checkpoints.training_fingerprint(smoke.model_copy(update=settings), manifest or {})

    return of


@pytest.mark.parametrize(
    "changed", ["training/trainer.py", "model/prompts.py", "compute/portable.json", "compute/fused.py", "train.py"]
)
def test_one_byte_of_the_training_code_changes_the_fingerprint(fingerprint, changed):
    """The past bug: a hand-made list of modules lacked the one with the sampler, which decides the order of the rows."""
    before = fingerprint()
    assert fingerprint() == before
    assert fingerprint(changed) != before


@pytest.mark.parametrize(
    "changed",
    ["data/shapes.py", "reporting/results.py", "evaluate.py", "training/__pycache__/trainer.cpython-311.pyc"],
)
def test_other_code_does_not_change_the_fingerprint(fingerprint, changed):
    before = fingerprint()
    assert fingerprint(changed) == before


def test_settings_data_and_model_change_the_fingerprint(fingerprint, smoke):
    before = fingerprint()
    assert fingerprint(seed=smoke.seed + 1) != before
    assert fingerprint(manifest={"splits": "others"}) != before
    assert fingerprint(run="other") == before
    assert fingerprint(sample=smoke.sample.model_copy(update={"num_prompts": 7})) == before
    write_json(smoke.model_dir / "provenance.json", {"files": {"model.safetensors": "0" * 64}})
    assert fingerprint() != before


def test_training_code_is_in_the_package():
    names = [path.relative_to(checkpoints.PACKAGE).as_posix() for path in checkpoints.training_code()]
    assert names == sorted(names)
    assert {"train.py", "training/trainer.py", "compute/portable.json", "model/architecture.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"train.py", "training", "compute", "model"}
