"""A checkout as people have it: line ends of Windows, lost execute bits, other locales, a path with spaces and other letters."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, git

SHIPPED = ("Makefile", ".gitattributes", "docker", "config", "src")


def make(*arguments: str, cwd: Path, **environment: str) -> str:
    finished = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture
def checkout(tmp_path):
    """A copy of what make needs before Python runs, below a path with a space and letters that are not ASCII."""
    folder = tmp_path / "mine and yours" / "löra"
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                folder / name,
                ignore=shutil.ignore_patterns("wheels", ".image-*", ".unfit-*", "__pycache__"),
            )
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv/.complete").touch()  # so that no interpreter is looked for
    return folder


def plans(folder: Path, **environment: str) -> bool:
    """Whether make can plan the smoke run: the scripts run, and the config is read."""
    planned = make("-n", "data", "ENGINE=venv", "CONFIG=config/smoke.yaml", cwd=folder, **environment)
    return "outputs/smoke/.sections" in planned and "lorabundle.preprocess" in planned


def test_a_path_with_spaces_and_other_letters(checkout):
    assert plans(checkout)
    link = checkout.parent / "link"
    link.symlink_to(checkout)
    assert plans(link)


def test_a_checkout_that_asks_for_the_line_endings_of_windows(checkout, tmp_path):
    git("init", "-q", cwd=checkout)
    git("add", *SHIPPED, cwd=checkout)
    git("commit", "-qm", "one", cwd=checkout)
    clone = tmp_path / "clone"
    git("-c", "core.autocrlf=true", "clone", "-q", str(checkout), str(clone), cwd=tmp_path)
    (clone / ".venv").mkdir()
    (clone / ".venv/.complete").touch()
    for path in clone.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            assert path.read_bytes() == (checkout / path.relative_to(clone)).read_bytes(), path
    assert plans(clone)


def test_lost_execute_bits(checkout):
    for path in checkout.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    assert "make all" in make("help", cwd=checkout)
    assert plans(checkout)


@pytest.mark.parametrize("locale", ["C", "POSIX", "tr_TR.ISO-8859-9", "ja_JP.eucJP"])
def test_locales_and_time_zones_change_no_setting(checkout, locale):
    text = (checkout / "config/smoke.yaml").read_text()
    (checkout / "config/smoke.yaml").write_text(f"# größer, 大\n{text}")
    assert plans(checkout, LC_ALL=locale, LANG=locale, TZ="Asia/Kathmandu")


@pytest.mark.parametrize("name", ["my config.yaml", "a:b.yaml", "a$b.yaml", "a%b.yaml", "a#b.yaml", "a=b.yaml"])
def test_a_config_that_make_cannot_follow_is_refused_by_name(checkout, name):
    shutil.copy(checkout / "config/smoke.yaml", checkout / name)
    finished = subprocess.run(["make", "data", f"CONFIG={name}"], cwd=checkout, capture_output=True, text=True)
    assert finished.returncode == 2
    assert f"make cannot follow a file of the name CONFIG='{name}'. Rename it" in finished.stderr.replace("\n", " ")


def test_a_folder_that_cannot_be_written_is_named(checkout):
    """Root may write anywhere, so a link to a read-only file system stands for a read-only folder."""
    (checkout / "outputs").symlink_to("/proc/self")
    finished = subprocess.run(
        ["make", "data", "ENGINE=venv", "CONFIG=config/smoke.yaml"], cwd=checkout, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert "config: error: cannot write to outputs/." in finished.stderr
