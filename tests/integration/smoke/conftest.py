"""The whole smoke run on the default model, stage by stage."""

from pathlib import Path

import pytest

from lorabundle.core.stage import STAGES
from tests.conftest import make_project, run_stage


def files(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def project(tmp_path_factory, fetched):
    """A project in which the whole smoke run has been run; `.new` maps each stage to the files it added."""
    folder = make_project(tmp_path_factory.mktemp("project"), "data/raw/wheels", "data/models", "src", "LICENSE")
    before, new, output = files(folder), {}, {}
    for stage in STAGES:
        output[stage] = run_stage(stage, cwd=folder).stdout
        new[stage] = files(folder) - before
        before = files(folder)
    return type("Project", (), {"folder": folder, "new": new, "output": output, "run": folder / "outputs/smoke"})
