"""The list of a run's results, and what makes its hash change."""

import subprocess
from pathlib import Path

import pytest

from lorabundle import report
from lorabundle.core.config import PROCESSED
from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import atomic_write, sha256_file, write_json
from lorabundle.core.fingerprint import LISTING, check_splits
from tests.fake_run import run_files, write_run


@pytest.fixture
def finished(smoke):
    """The smoke run's folder as its stages would leave it, reported."""
    write_run(smoke, run_files())
    report.run(smoke)
    return smoke


def fingerprint(run_config) -> str:
    report.run(run_config)
    return sha256_file(run_config.run_dir / LISTING)


def test_splits_of_another_run_are_refused(smoke):
    """Its test rows may be rows that this run was trained on."""
    write_json(smoke.run_dir / "manifest.json", {"splits": 1})
    write_json(PROCESSED / "manifest.json", {"splits": 1})
    assert check_splits(smoke) == {"splits": 1}
    write_json(PROCESSED / "manifest.json", {"splits": 2})
    with pytest.raises(MissingInputError, match="splits of another run, not of smoke"):
        check_splits(smoke)


def test_listing_names_the_results_and_nothing_else(finished):
    lines = (finished.run_dir / LISTING).read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        *(f"data/processed/{split}/data.arrow" for split in ("test", "train", "val")),
        "outputs/smoke/adapter/adapter_model.safetensors",
        *(f"outputs/smoke/{name}" for name in ("examples.jsonl", "manifest.json", "metrics.json", "samples.jsonl")),
        "reports/results.md, above its section This run",
    ]


def test_sha256sum_checks_the_listing(finished):
    check = ["sha256sum", "--check", "--strict", "--quiet", finished.run_dir / LISTING]
    assert subprocess.run(check).returncode == 0
    atomic_write(finished.adapter_dir / "adapter_model.safetensors", "weightS")
    assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 1


def test_report_shows_the_fingerprint(finished):
    shown = f"Fingerprint of the results: `{sha256_file(finished.run_dir / LISTING)}`"
    text = Path("reports/results.md").read_text()
    assert shown in text.split("\n## This run\n")[1]


def test_fingerprint_is_of_results_and_not_of_the_machine(finished):
    """Another machine and other times give the same one; another answer of the model another."""
    files, before = run_files(), fingerprint(finished)
    files["environment.json"]["cpu"] = "Another CPU"
    files["stages/train.json"]["seconds"] = 99.0
    write_run(finished, files)
    assert fingerprint(finished) == before
    files["samples.jsonl"][0]["finetuned"] = "Another answer"
    write_run(finished, files)
    assert fingerprint(finished) != before
