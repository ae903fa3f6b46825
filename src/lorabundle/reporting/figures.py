"""Figures of the report, drawn with matplotlib so that the same numbers give the same bytes."""

import io
import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lorabundle.core.strict_json import Fields

STYLE = {
    "svg.hashsalt": "lorabundle",  # else element ids are random
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}
SIZE = (4.6, 2.9)  # inches: at a phone's 330 pixels the text is still 9 pixels high
# Told apart by readers with any colour vision (Tol's schemes), and with a contrast of 3 on white and on near-black alike
BLUE, RED, TEAL, GREY = "#4477aa", "#cc3311", "#229988", "#888888"
SPLITS = {"train": (BLUE, "-", "training"), "val": (RED, "--", "validation"), "test": (TEAL, "-.", "test")}

BLACK = "#000000"  # text and axes
BACKGROUND = "patch_1"  # matplotlib's id for the figure's own rectangle

Drawing = dict[str, bytes]  # file name extension -> content


def _draw(paint: Callable[[Axes], None]) -> Drawing:
    """A figure as SVG and PNG."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        paint(axes)
        files = {}
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
            files[kind] = buffer.getvalue()
        plt.close(figure)
    return files


def loss_curve(train: list[tuple[int, float]], val: list[tuple[int, float]]) -> Drawing:
    """Training and validation loss by step; both are (step, loss) pairs."""

    def paint(axes: Axes) -> None:
        axes.plot(*zip(*train, strict=True), color=BLUE, linewidth=1.4, label="training")
        if val:
            axes.plot(*zip(*val, strict=True), color=RED, linewidth=1.4, marker="o", markersize=3.5, label="validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats per response token)")
        axes.legend()

    return _draw(paint)


def bin_edges(values: list[float], most: int = 40) -> np.ndarray:
    """Edges of at most `most` bins of a round width (1, 2 or 5 times a power of ten), one edge exactly at zero."""
    low, high = min(*values, 0.0), max(*values, 0.0)
    if low == high:
        return np.array([-0.5, 0.0, 0.5])
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    width = next(w for w in (power, 2 * power, 5 * power, 10 * power) if (high - low) / w <= most - 2)
    return np.arange(math.floor(low / width), math.floor(high / width) + 2) * width


def change_histogram(changes: list[float], sign_test: Fields) -> Drawing:
    """Change of each test example's loss (nats per token), with the sign test's counts on either side of zero."""

    def paint(axes: Axes) -> None:
        parts = [[c for c in changes if c < 0], [c for c in changes if c == 0], [c for c in changes if c > 0]]
        axes.hist(parts, bins=bin_edges(changes), stacked=True, color=[BLUE, GREY, RED], edgecolor="none", rwidth=0.9)
        axes.axvline(0, color=BLACK, linewidth=1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        for key, colour, side in (("improved", BLUE, "left"), ("worsened", RED, "right")):
            axes.set_title(
                sign_test.number(key, f"{{:,}} {key}"), loc=side, color=colour, fontweight="bold", fontsize=11
            )
        axes.set_xlabel("change of an example's loss (nats per token)")
        axes.set_ylabel("test examples")

    return _draw(paint)


def length_histogram(lengths: dict[str, tuple[list, list]], what: str) -> Drawing:
    """Lengths in tokens by split, as shares of the split, so that splits of different sizes can be compared.

    Args:
        lengths: by split, the bins' edges and their counts.
        what: whose lengths.
    """

    def paint(axes: Axes) -> None:
        for name, (colour, dashes, label) in SPLITS.items():
            edges, counts = lengths[name]
            shares = np.asarray(counts) / max(sum(counts), 1)
            axes.stairs(shares, edges, color=colour, linestyle=dashes, linewidth=1.4, label=label, baseline=None)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.set_xlabel(f"{what} length (tokens)")
        axes.set_ylabel("share of the split")
        axes.legend()

    return _draw(paint)


def inline_svg(svg: bytes, name: str) -> str:
    """A drawing as an element for the inside of an HTML page.

    Ids get the figure's name, since a page must not have one twice; `style` attributes become plain ones, which a strict
    content security policy allows; black follows the page's text colour and the white background goes, for dark pages.
    """
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")) or child.get("id") == BACKGROUND:
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows SVG's elements without a namespace
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        attributes |= _declarations(attributes.pop("style", ""))
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" or value.startswith("url(#"):
                value = value.replace("#", f"#{name}-")
            element.set(key, "currentColor" if value == BLACK else value)
        if element.tag == "text":
            element.attrib.setdefault("fill", "currentColor")
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib["aria-hidden"] = "true"  # the page describes it
    return re.sub(r"\s*\n\s*", "\n", ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _declarations(style: str) -> dict[str, str]:
    """A `style` attribute's declarations, all but the font family, which the page sets."""
    pairs = dict(re.split(r":\s*", item.strip(), maxsplit=1) for item in style.split(";") if item.strip())
    pairs.pop("font-family", None)
    return pairs
