"""REPRODUCE.md: its commands run as they stand, and its numbers are the run's."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from lorabundle import archive
from lorabundle.core.config_file import load_config
from lorabundle.core.files import sha256_file, write_json
from lorabundle.evaluation.tolerances import TOLERANCES, allowed
from lorabundle.submission import reproduce
from tests.fake_run import metrics
from tests.fake_submission import COMMIT, default_files, documents, write_packed, write_records


def table(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose first heading is given, by their first cell."""
    (block,) = re.findall(rf"^\| {first} \|.*\n\|[-: |]+\n((?:\|.*\n)+)", text, re.M)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {row[0].strip("`"): [cell.strip("`") for cell in row[1:]] for row in rows}


def test_commands_that_check_the_archive_run_as_they_stand(packed):
    archive.run(packed)
    commands = re.findall(r"^```\n((?:.|\n)*?)^```", documents(packed)[reproduce.NAME], re.M)
    script = f"set -e\n{commands[0]}"
    shell = subprocess.run(["bash", "-c", script], cwd="archive", capture_output=True, text=True, check=True)
    fingerprint = sha256_file(packed.run_dir / "RESULTS.sha256")
    assert fingerprint in shell.stdout
    assert commands[1].strip() == fingerprint


def test_expected_numbers_and_tolerances(packed):
    rows = table(documents(packed)[reproduce.NAME], "Metric")
    models = metrics()["models"]
    tolerances = [f"{allowed('loss', models['base'], trained):.2g}" for trained in (False, True)]
    assert rows["loss"] == ["2.000000", "1.500000", *tolerances]
    known = set(TOLERANCES) & set(models["base"])
    assert set(rows) == known
    assert len(known) >= 10


def test_share_of_right_answers_is_among_the_numbers(packed):
    values = metrics()
    for rate, model in enumerate(values["models"].values(), start=1):
        model["accuracy"] = {"correct": rate, "examples": 4, "rate": rate / 4, "ci95": [0.0, 1.0]}
    write_json(packed.run_dir / "metrics.json", values)
    write_records(packed)
    assert table(documents(packed)[reproduce.NAME], "Metric")["accuracy"][:2] == ["0.250000", "0.500000"]


def test_every_metric_that_is_compared_has_a_tolerance():
    follow = {"tokens", "examples", "perplexity"}  # counts, and the exponential of the loss
    assert set(metrics()["models"]["base"]) - follow <= set(TOLERANCES)


def test_run_on_aarch64_has_its_lock(packed):
    environment = json.loads((packed.run_dir / "environment.json").read_text())
    write_json(packed.run_dir / "environment.json", environment | {"platform": "Linux-6.1-aarch64-with-glibc2.36"})
    write_records(packed)
    found = documents(packed)
    lock = Path("docker/requirements-aarch64.lock")
    assert table(found[reproduce.NAME], "Fact")[f"sha256 of {lock}"] == [sha256_file(lock)]
    assert "## The 98 packages of docker/requirements-aarch64.lock and docker/openmp.lock" in found["LICENSES.md"]
    assert "| `torch` | `2.10.0` | " in found["LICENSES.md"]


def test_portable_numerics_allow_no_difference(workspace):
    config = load_config(workspace / "config/smoke.yaml", ["numerics=portable"])
    write_packed(config, default_files())
    text = documents(config)[reproduce.NAME]
    assert "on any x86-64 CPU with AVX2" in text
    assert "olerance" not in text.split("## What to expect")[1]
    assert table(text, "Metric")["loss"] == ["2.000000", "1.500000"]


def test_facts_of_the_run(packed):
    text = documents(packed)[reproduce.NAME]
    facts = table(text, "Fact")
    assert facts["Commit"] == [COMMIT]
    assert facts["CPU"] == ["Some CPU"]
    assert facts["Threads"] == ["2"]
    assert facts["sha256 of docker/requirements.lock"] == [sha256_file(Path("docker/requirements.lock"))]
    assert table(text, "Stage")["train"] == ["60.0", "2.00"]
    assert table(text, "Input")["toolz==1.2.0"][0].startswith("sha256 ")
    assert "make all CONFIG=handed-in/outputs/smoke/config.yaml ENGINE=venv THREADS=2" in text


def test_files_that_no_command_fetches_are_named(own_packed):
    rows = table(documents(own_packed)[reproduce.NAME], "File")
    assert rows == {"data/mine.jsonl": ["a" * 64], "tiny/model.safetensors": ["f" * 64]}


def test_default_run_needs_no_file_of_the_authors(packed):
    assert "no command fetches them" not in documents(packed)[reproduce.NAME]


@pytest.mark.parametrize("name", ["value | with a bar", "`ticks`", "line\nbreak"])
def test_text_from_files_stays_in_its_cell(workspace, name):
    config = load_config(workspace / "config/smoke.yaml")
    files = default_files()
    files["environment.json"]["cpu"] = name
    write_packed(config, files)
    (row,) = [line for line in documents(config)[reproduce.NAME].splitlines() if line.startswith("| CPU |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
