"""The parts of a page."""

from lorabundle.reporting.page import Code, Page, Section, Strong, parts


def test_a_line_is_one_piece_or_several():
    assert parts("a") == ["a"]
    assert parts(Code("a")) == [Code("a")]
    assert parts(["a", Strong("b")]) == ["a", Strong("b")]


def test_anchor_of_a_section():
    assert Section("Where the numbers come from", []).slug == "where-the-numbers-come-from"


def test_pages_do_not_share_their_sections():
    first, second = Page("a", []), Page("b", [])
    first.sections.append(Section("s", []))
    assert second.sections == []
