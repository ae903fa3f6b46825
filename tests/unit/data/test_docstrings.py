"""Records from docstrings, on a wheel made here."""

import zipfile

import pytest

from lorabundle.data.docstrings import build_records

MODULE = '''
def walk(graph, start, *, depth=None):
    """Yield the nodes that can be
    reached from `start`.

    A second paragraph.

    Parameters
    ==========

    graph : Graph
        The graph to walk through, edge by edge.
    start, depth : node
        Where to begin, and how far to go from there.

    Returns
    -------
    Iterator
        The nodes in the order of their discovery.

    Examples
    --------
    >>> from toy import walk
    >>> list(walk(path(3), 0))
    [0, 1, 2]
    """


class lower_case:
    def close(self):
        """Close what has been opened before."""


class Tree:
    """A connected graph without any cycles in it."""

    @property
    def root(self):
        """Return the node that has no parent."""

    @root.setter
    def root(self, node):
        """Set the node that has no parent at all."""

    def prune(self, *args, **kwargs):
        """Remove the branches that carry no leaf."""

    def _private(self):
        """Nobody should ask about this at all."""


def copy_of_walk(graph):
    """Yield the nodes that can be reached from ``start``"""


def terse():
    """Too short."""


def mathematical():
    """Compute the value of $x^2$ for a given number."""


raise RuntimeError("a wheel is parsed, never imported")
'''


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/core.py", MODULE)
        archive.writestr("toy/tests/test_core.py", 'def test_x():\n    """Tests are no documentation of anything."""\n')
        archive.writestr("toy/_hidden.py", 'def hidden():\n    """Private modules are no documentation."""\n')
    return path


def test_records(wheel):
    records = {record["id"]: record for record in build_records({"toy": wheel})}
    pairs = {name: (r["prompt"][0]["content"], r["completion"][0]["content"]) for name, r in records.items()}
    function = "the toy function `walk(graph, start, *, depth)`"
    both = "Where to begin, and how far to go from there."
    assert pairs == {
        "toy.core.walk:explanation": (f"What does {function} do?", "Yield the nodes that can be reached from `start`."),
        "toy.core.walk:parameter:graph": (
            f"In {function}, what is the parameter `graph`?",
            "The graph to walk through, edge by edge.",
        ),
        "toy.core.walk:parameter:start": (f"In {function}, what is the parameter `start`?", both),
        "toy.core.walk:returns": (f"What does {function} return?", "The nodes in the order of their discovery."),
        "toy.core.walk:example": (
            f"Show a short example of {function}.",
            ">>> from toy import walk\n>>> list(walk(path(3), 0))\n[0, 1, 2]",
        ),
        "toy.core.lower_case.close:explanation": (
            "What does the toy method `lower_case.close()` do?",
            "Close what has been opened before.",
        ),
        "toy.core.Tree:explanation": (
            "What does the toy class `Tree` do?",
            "A connected graph without any cycles in it.",
        ),
        "toy.core.Tree.root:explanation": (
            "What does the toy property `Tree.root` do?",
            "Return the node that has no parent.",
        ),
        "toy.core.Tree.prune:explanation": (
            "What does the toy method `Tree.prune(*args, **kwargs)` do?",
            "Remove the branches that carry no leaf.",
        ),
    }


def test_group_is_the_function(wheel):
    records = list(build_records({"toy": wheel}))
    assert {record["group"] for record in records if ".walk:" in record["id"]} == {"walk"}


def test_same_wheel_same_records(wheel):
    assert list(build_records({"toy": wheel})) == list(build_records({"toy": wheel}))
