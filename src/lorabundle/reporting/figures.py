"""The report's figures: FIGURES lists them once, and matplotlib draws them so that the same numbers give the same bytes."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lorabundle.core.config import SPLITS
from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.evaluation.samples import loss_change
from lorabundle.reporting import page
from lorabundle.reporting.run_files import Results

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
# Readers with any colour vision can tell these apart (Tol's schemes); contrast of 3 on white and on near-black
BLUE, RED, TEAL, GREY = "#4477aa", "#cc3311", "#229988", "#888888"
BLACK = "#000000"  # text and axes
LINES = {"train": (BLUE, "-", "training"), "val": (RED, "--", "validation"), "test": (TEAL, "-.", "test")}
MOST_BINS = 40

Drawing = dict[str, bytes]  # file name extension -> content
Points = list[tuple[int, float]]  # (step, loss)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report, in the files `figures/<name>.svg` and `.png`.

    Attributes:
        name: of its files.
        caption: below it.
        source: the run's file that its numbers are from.
        alt: gives the text that says in words what it shows.
        paint: draws it.
    """

    name: str
    caption: str
    source: str
    alt: Callable[[Results], str]
    paint: Callable[[Axes, Results], None]


def figure_blocks(results: Results) -> page.Figures:
    """All figures, for the page."""
    return page.Figures([page.Figure(f.name, f.caption, f.source, f.alt(results)) for f in FIGURES])


def draw(figure: ReportFigure, results: Results) -> Drawing:
    """A figure as SVG and PNG.

    Raises:
        MalformedInputError: a number is missing.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=SIZE, layout="constrained")
        figure.paint(canvas.subplots(), results)
        drawing = {}
        for extension, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=extension, dpi=200, metadata=metadata)
            drawing[extension] = buffer.getvalue()
    return drawing


def loss_points(train_log: list[Fields]) -> tuple[Points, Points]:
    """Training and validation losses of the log.

    Raises:
        MalformedInputError: the log has no training loss.
    """
    train = [(row["step"], row["loss"]) for row in train_log if "loss" in row]
    if not train:
        raise MalformedInputError(
            "The run's train_log.jsonl has no training loss, so its loss curve cannot be drawn. Delete this file and run `make all` "
            "again: it then trains again, and training logs the loss of at least one step."
        )
    return train, [(row["step"], row["eval_loss"]) for row in train_log if "eval_loss" in row]


def losses_in_words(results: Results) -> str:
    """First and last point of each curve."""
    named = zip(("training", "validation"), loss_points(results.train_log), strict=True)
    curves = [(name, points[0], points[-1]) for name, points in named if points]
    return f"Line chart: {'; '.join(_curve_in_words(*curve) for curve in curves)}."


def _curve_in_words(name: str, first: tuple[int, float], last: tuple[int, float]) -> str:
    if first == last:
        return f"{name} loss is {first[1]:.3f} at step {first[0]}"
    return f"{name} loss goes from {first[1]:.3f} at step {first[0]} to {last[1]:.3f} at step {last[0]}"


def paint_losses(axes: Axes, results: Results) -> None:
    """Training and validation loss by step."""
    train, val = loss_points(results.train_log)
    marker = "o" if len(train) == 1 else None  # a line through one point is invisible
    axes.plot(*zip(*train, strict=True), color=BLUE, linewidth=1.4, marker=marker, markersize=3.5, label="training")
    if len({step for step, _ in train + val}) == 1:
        axes.set_xlim(train[0][0] - 1, train[0][0] + 1)
    if val:
        axes.plot(*zip(*val, strict=True), color=RED, linewidth=1.4, marker="o", markersize=3.5, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per response token)")
    axes.legend()


def bin_edges(values: list[float]) -> np.ndarray:
    """Edges of at most MOST_BINS bins of a round width (1, 2 or 5 times a power of ten), with one edge exactly at zero."""
    locator = MaxNLocator(nbins=MOST_BINS - 2, steps=[1, 2, 5, 10])  # it may add a bin at each end
    return locator.tick_values(min(*values, 0.0), max(*values, 0.0))


def changes_in_words(results: Results) -> str:
    """Number of examples on each side of zero."""
    test = results.metrics.part("sign_test")
    improved, worsened, unchanged = (test.number(key, "{:,}") for key in ("improved", "worsened", "unchanged"))
    return f"Histogram around zero: {improved} examples improved, {worsened} worsened and {unchanged} did not change."


def paint_changes(axes: Axes, results: Results) -> None:
    """Change of each test example's loss (nats per token), with the sign test's counts on either side of zero."""
    changes = [loss_change(example) for example in results.examples]
    parts = [[c for c in changes if c < 0], [c for c in changes if c == 0], [c for c in changes if c > 0]]
    axes.hist(parts, bins=bin_edges(changes), stacked=True, color=[BLUE, GREY, RED], edgecolor="none", rwidth=0.9)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    for key, colour, side in (("improved", BLUE, "left"), ("worsened", RED, "right")):
        title = results.metrics.part("sign_test").number(key, f"{{:,}} {key}")
        axes.set_title(title, loc=side, color=colour, fontweight="bold", fontsize=11)
    axes.set_xlabel("change of an example's loss (nats per token)")
    axes.set_ylabel("test examples")


def lengths_in_words(results: Results, what: str) -> str:
    """Median of each split; `what` is "prompt" or "response"."""
    lengths = results.manifest.part("lengths")
    medians = [f"{name} {lengths.part(name).part(what).number('median', '{:,.10g}')}" for name in SPLITS]
    return f"Histogram. Median tokens: {', '.join(medians)}."


def paint_lengths(axes: Axes, results: Results, what: str) -> None:
    """Lengths of prompts or responses in tokens, as shares of the split, so that splits of different sizes can be compared."""
    for name, (colour, dashes, label) in LINES.items():
        lengths = results.manifest.part("lengths").part(name).part(what)
        shares = np.asarray(lengths["counts"]) / max(sum(lengths["counts"]), 1)
        axes.stairs(shares, lengths["edges"], color=colour, linestyle=dashes, linewidth=1.4, label=label, baseline=None)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlabel(f"{what} length (tokens)")
    axes.set_ylabel("share of the split")
    axes.legend()


FIGURES = (
    ReportFigure(
        name="loss",
        caption="Loss in training and validation",
        source="train_log.jsonl",
        alt=losses_in_words,
        paint=paint_losses,
    ),
    ReportFigure(
        name="change",
        caption="Change of each test example's loss, fine-tuned minus base; left of zero is better",
        source="examples.jsonl",
        alt=changes_in_words,
        paint=paint_changes,
    ),
    ReportFigure(
        name="prompt_lengths",
        caption="Prompt lengths by split, in tokens before cutting",
        source="manifest.json",
        alt=partial(lengths_in_words, what="prompt"),
        paint=partial(paint_lengths, what="prompt"),
    ),
    ReportFigure(
        name="response_lengths",
        caption="Response lengths by split, in tokens before cutting",
        source="manifest.json",
        alt=partial(lengths_in_words, what="response"),
        paint=partial(paint_lengths, what="response"),
    ),
)
