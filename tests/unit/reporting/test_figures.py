"""The figures: listed once, drawn with equal bytes from equal numbers, and described in words."""

import os
import subprocess
import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.figures import FIGURES, MOST_BINS, bin_edges, draw, figure_blocks, loss_points
from tests import fake_run
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def results():
    return fake_run.results()


def figure(name: str):
    return next(figure for figure in FIGURES if figure.name == name)


@pytest.mark.parametrize("name", [figure.name for figure in FIGURES])
def test_equal_numbers_give_equal_bytes(results, name):
    drawing = draw(figure(name), results)
    assert set(drawing) == {"svg", "png"}
    assert drawing["png"][:4] == b"\x89PNG"
    assert drawing == draw(figure(name), results)


def test_another_number_gives_another_drawing(results):
    other = replace(results, train_log=[Fields({"step": 1, "loss": 9.0}, "train_log.jsonl")])
    assert draw(figure("loss"), other) != draw(figure("loss"), results)
    assert draw(figure("change"), other) == draw(figure("change"), results)


def test_words_in_a_drawing_are_text(results):
    svg = draw(figure("change"), results)["svg"].decode()
    for words in ("3 improved", "1 worsened", "test examples"):
        assert f">{words}<" in svg
    assert ">response length (tokens)<" in draw(figure("response_lengths"), results)["svg"].decode()


def test_each_figure_says_in_words_what_it_shows(results):
    blocks = figure_blocks(results).figures
    assert [(block.name, block.source) for block in blocks] == [
        ("loss", "train_log.jsonl"),
        ("change", "examples.jsonl"),
        ("prompt_lengths", "manifest.json"),
        ("response_lengths", "manifest.json"),
    ]
    assert [block.alt for block in blocks] == [
        "Line chart: training loss goes from 2.000 at step 1 to 1.500 at step 2; validation loss is 1.400 at step 2.",
        "Histogram around zero: 3 examples improved, 1 worsened and 0 did not change.",
        "Histogram. Median tokens: train 10, val 11, test 12.5.",
        "Histogram. Median tokens: train 8, val 8, test 8.",
    ]


def test_log_without_validation_has_one_curve(results):
    only = replace(results, train_log=results.train_log[:2])
    assert figure("loss").alt(only) == "Line chart: training loss goes from 2.000 at step 1 to 1.500 at step 2."
    assert b">validation<" not in draw(figure("loss"), only)["svg"]


def test_points_are_of_the_log():
    log = [Fields(row, "train_log.jsonl") for row in fake_run.run_files()["train_log.jsonl"]]
    assert loss_points(log) == ([(1, 2.0), (2, 1.5)], [(2, 1.4)])
    with pytest.raises(MalformedInputError, match="Delete this file and run `make all` again"):
        loss_points(log[2:])


def test_bins_by_hand():
    """From -1.93 to 0.4 by 0.1: 24 bins. By 0.05 there would be 47."""
    edges = bin_edges([-1.93, 0.31, 0.4])
    assert edges == pytest.approx([number / 10 for number in range(-20, 5)])


@pytest.mark.parametrize("values", [[2.5], [-0.3], [-3.9], [-2.5, 1.4], [1e-7, -2e-7], [-38.5, 1e3]])
def test_bins_have_an_edge_exactly_at_zero(values):
    """A range of 3.9 once stopped the report: 0.1, the largest width that was tried, gives 39 bins, and 38 were allowed."""
    edges = bin_edges(values)
    assert 0.0 in edges
    assert len(edges) - 1 <= MOST_BINS
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)


def test_bins_of_any_values():
    random = np.random.default_rng(0)
    for _ in range(500):
        values = random.normal(random.normal(), 10 ** random.uniform(-3, 2), size=20)
        edges = bin_edges(list(values))
        width = edges[1] - edges[0]
        assert 0.0 in edges
        assert len(edges) - 1 <= MOST_BINS
        assert edges[0] <= min(*values, 0.0) + 1e-9 * width
        assert edges[-1] >= max(*values, 0.0) - 1e-9 * width
        leading = width / 10 ** np.floor(np.log10(width * (1 + 1e-9)))
        assert np.isclose(leading, [1, 2, 5]).any()


def test_import_and_drawing_change_no_settings(results):
    """Pyplot would choose a backend for the process, and a style that is set would stay."""
    before = dict(matplotlib.rcParams)
    draw(figure("loss"), results)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, lorabundle.reporting.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
