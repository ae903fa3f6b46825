"""What is packed: the run's files and the source tree, as make lists it."""

import subprocess
from pathlib import Path

import pytest

from lorabundle.core.files import atomic_write
from lorabundle.submission.contents import SOURCE_TREE, packed_paths, source_files, source_tree
from tests.conftest import ROOT


def test_make_and_archive_list_the_same_source_files():
    """Make packs again when one of its files changes; a file that only one of the two knows would be packed too late, or never."""
    database = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (listed,) = [line.split()[2:] for line in database.splitlines() if line.startswith("SOURCE := ")]
    assert sorted(listed) == sorted(path.as_posix() for path in source_files(ROOT))
    assert {"Makefile", ".ci/run", "src/lorabundle/submission/source_tree.txt", "tests/unit/test_layers.py"} < set(
        listed
    )


def test_the_list_of_the_source_tree():
    entries, left_out = source_tree()
    assert {"Makefile", "docs", "src", "reports/reference"} < set(entries)
    assert set(left_out) == {".*", "*.pyc", "__pycache__", "wheels"}
    assert SOURCE_TREE.is_relative_to(ROOT / "src")  # so that it is packed itself


@pytest.mark.parametrize(
    ("name", "is_packed"),
    [
        ("docs/trust.md", True),
        ("docs/images/report.png", True),
        (".ci/run", True),
        ("src/lorabundle/more.py", True),
        ("src/wheels.py", True),
        ("src/.hidden.py", False),
        ("src/.cache/more.py", False),
        ("src/lorabundle/__pycache__/more.py", False),
        ("src/more.pyc", False),
        ("docker/wheels/torch.whl", False),
        ("tests/data/wheels/more.txt", False),
        ("reports/results.md", False),
        ("data/raw/mine.csv", False),
    ],
)
def test_names_that_are_packed(tmp_path, name, is_packed):
    atomic_write(tmp_path / name, "")
    assert source_files(tmp_path) == ([Path(name)] if is_packed else [])


def test_a_run_may_have_the_name_of_something_that_is_left_out(packed):
    """The patterns count below an entry; the run `wheels` once was packed without its results."""
    wheels = packed.model_copy(update={"run": "wheels"})
    packed.run_dir.rename(wheels.run_dir)
    assert wheels.run_dir / "metrics.json" in packed_paths(wheels)


def test_quarantined_rows_are_packed_if_there_are_any(packed):
    quarantine = packed.run_dir / "quarantine.jsonl"
    assert quarantine not in packed_paths(packed)
    atomic_write(quarantine, "{}")
    assert quarantine in packed_paths(packed)


def test_files_of_a_run(packed):
    names = [path.as_posix() for path in packed_paths(packed) if path.parts[0] not in ("config", "docker")]
    run = "outputs/smoke"
    stages = ["evaluate", "fetch", "preprocess", "report", "sample", "train"]
    assert names == [
        ".ci/run",
        "LICENSE",
        "README.md",
        f"{run}/RESULTS.sha256",
        f"{run}/adapter/README.md",
        f"{run}/adapter/adapter_model.safetensors",
        f"{run}/config.yaml",
        f"{run}/environment.json",
        f"{run}/examples.jsonl",
        f"{run}/logs/train.log",
        f"{run}/manifest.json",
        f"{run}/metrics.json",
        f"{run}/provenance.json",
        f"{run}/samples.jsonl",
        *(f"{run}/stages/{stage}.json" for stage in stages),
        f"{run}/train_log.jsonl",
        "reports/figures/loss.svg",
        "reports/results.html",
        "reports/results.md",
        *(f"src/lorabundle/{stage}.py" for stage in stages),
    ]
    shipped = {path.as_posix() for path in packed_paths(packed)}
    assert {"config/default.yaml", "docker/requirements.lock", "docker/run.sh"} <= shipped
    assert not any("wheels" in name or name.endswith(".image") for name in shipped)
