"""The report's files follow from the run's files."""

import pytest

from lorabundle.reporting.figures import FIGURES
from lorabundle.reporting.report_files import report_files, upper_part
from tests import fake_run


@pytest.fixture
def files(smoke):
    return report_files(smoke, fake_run.results(), "f" * 64)


def test_both_renderings_and_two_files_for_each_figure(files):
    figures = {f"figures/{figure.name}.{extension}" for figure in FIGURES for extension in ("svg", "png")}
    assert set(files) == {"results.md", "results.html"} | figures
    assert len(files) == 10


def test_upper_part_is_what_is_above_the_last_section(smoke, files):
    text = files["results.md"].decode()
    upper = upper_part(smoke, fake_run.results())
    assert text.startswith(upper)
    assert text.removeprefix(upper).startswith("\n## This run\n")
    assert "f" * 64 not in upper


def test_fingerprint_is_in_both(files):
    assert all("f" * 64 in files[name].decode() for name in ("results.md", "results.html"))


def test_each_drawing_is_in_the_page(files):
    page = files["results.html"].decode()
    assert page.count("<svg ") == len(FIGURES)
    assert all(f'id="{figure.name}-figure_1"' in page for figure in FIGURES)
    assert all(f"](figures/{figure.name}.svg)" in files["results.md"].decode() for figure in FIGURES)
