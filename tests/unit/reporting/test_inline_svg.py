"""A drawing inside the page follows the page's colours and keeps its words."""

import re

import pytest

from lorabundle.reporting.figures import FIGURES, draw
from lorabundle.reporting.inline_svg import inline_svg
from tests import fake_run


@pytest.fixture(scope="module")
def svg() -> str:
    figure = FIGURES[1]
    return inline_svg(draw(figure, fake_run.results())["svg"], figure.name)


def test_black_becomes_the_pages_colour_and_words_stay(svg):
    assert "3 improved" in svg
    assert ">test examples<" in svg
    assert "currentColor" in svg


@pytest.mark.parametrize("gone", ["#000000", "#ffffff", "style=", "<metadata", "xmlns", "font-family", 'width="331'])
def test_what_a_page_cannot_use_is_gone(svg, gone):
    assert gone not in svg


def test_ids_and_references_have_the_figures_name(svg):
    ids = re.findall(r' id="([^"]+)"', svg)
    references = re.findall(r'(?:href="|url\()#([^")]+)', svg)
    assert len(ids) == len(set(ids)) > 10
    assert references
    assert set(references) <= set(ids)
    assert all(name.startswith("change-") for name in ids)


def test_by_hand():
    drawing = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="2" version="1.1"><g id="patch_1"/>'
        b'<g id="a" style="fill: #000000; font-family: x"><text>t</text></g></svg>'
    )
    assert inline_svg(drawing, "n") == (
        '<svg stroke-linejoin="round" stroke-linecap="butt" aria-hidden="true">'
        '<g id="n-a" fill="currentColor"><text fill="currentColor">t</text></g></svg>'
    )
