"""Figures of the report, drawn with matplotlib so that the same numbers give the same bytes."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from lorabundle import artifacts

STYLE = {
    "svg.hashsalt": "lorabundle",  # else element ids are random
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
TRAIN, VALIDATION = "#4477aa", "#cc3311"  # told apart by readers with any colour vision (Tol's bright scheme)


def loss_curve(journal: list[dict], folder: Path) -> None:
    """Training and validation loss by step, as `loss.svg` and `loss.png` in `folder`.

    Args:
        journal: rows of train_log.jsonl.
        folder: where to write.
    """
    train = [(row["step"], row["loss"]) for row in journal if "loss" in row]
    val = [(row["step"], row["eval_loss"]) for row in journal if "eval_loss" in row]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.plot(*zip(*train, strict=True), color=TRAIN, linewidth=1.5, label="training")
        if val:
            axes.plot(*zip(*val, strict=True), color=VALIDATION, linewidth=1.5, marker="o", label="validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats per response token)")
        axes.legend()
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            artifacts.atomic_write(folder / f"loss.{kind}", buffer.getvalue())
        plt.close(figure)
