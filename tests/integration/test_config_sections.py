"""Each stage reads the config sections that the Makefile's rule for it names, so that a changed setting reruns what reads it."""

import importlib
import re
from pathlib import Path

import pytest

from lorabundle import evaluate
from lorabundle.core.config import Config
from lorabundle.core.config_file import write_resolved
from lorabundle.core.files import atomic_write, hash_paths, write_json
from lorabundle.core.stage import STAGES
from tests.conftest import ROOT

FOR_ESTIMATES = {"train": {"evaluate"}}  # read only to say how long evaluation will take: no file depends on it
# Stage -> the text of its rule's prerequisites
RULES = dict(re.findall(r"^\$\(STAGES\)/(\w+)\.json: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.M))


def sections_of(stage: str) -> set[str]:
    """The sections whose change reruns a stage: those of its rule, and of the stages that it follows."""
    named = " ".join(re.findall(r"\$\(call section,([\w ]+)\)", RULES[stage])).split()
    followed = re.findall(r"\$\(STAGES\)/(\w+)\.json", RULES[stage])
    return set(named).union(*map(sections_of, followed))


class NotingConfig(Config):
    """A config that notes which sections are read."""

    def __getattribute__(self, name: str) -> object:
        if name in Config.model_fields:
            read.add(name)
        return super().__getattribute__(name)

    def model_dump(self, **arguments) -> dict:
        """Note what is dumped too: pydantic reads it without asking for attributes."""
        settings = super().model_dump(**arguments)
        read.update(settings)
        return settings


read: set[str] = set()


@pytest.fixture
def sections_read(tiny_config, monkeypatch) -> dict[str, set[str]]:
    """Stage -> the sections that it read of a tiny run, of which every stage is run."""
    config = NotingConfig.model_validate(tiny_config("train.max_steps=4").model_dump())
    write_resolved(config)
    Path("src").symlink_to(ROOT / "src")  # the archive packs it
    for name in ("LICENSE", f"{config.run_dir}/logs/fetch.log"):  # what the archive packs too
        atomic_write(Path(name), "")
    monkeypatch.setattr(evaluate, "check_plausible", lambda *_: [])  # which refuses random weights
    found = {}
    for stage in STAGES:
        read.clear()
        files = importlib.import_module(f"lorabundle.{stage}").run(config)
        found[stage] = set(read)
        command = ["python", "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml"]
        record = {"command": command, "commit": "unknown", "seconds": 1.0, "peak_rss_bytes": 1}
        times = {name: f"2026-11-23T10:0{n}:00+00:00" for n, name in enumerate(("started_at", "ended_at"))}
        inputs, outputs = hash_paths(files.inputs), hash_paths(files.outputs)
        write_json(config.record_path(stage), record | times | {"inputs": inputs, "outputs": outputs})
    return found


def test_rules_name_the_sections_that_the_stages_read(sections_read):
    """The run's name is no section of a rule: another name is another folder."""
    for stage, sections in sections_read.items():
        decisive = sections - {"run"} - FOR_ESTIMATES.get(stage, set())
        assert decisive <= sections_of(stage), f"{stage}: a change of these would rerun nothing"
    for stage in ("fetch", "preprocess", "train", "evaluate", "sample", "report"):
        named = re.findall(r"\$\(call section,([\w ]+)\)", RULES[stage])
        assert set(" ".join(named).split()) <= sections_read[stage], (
            f"{stage}: a change of these would rerun it for nothing"
        )
