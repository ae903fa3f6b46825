"""Render a finished run: `reports/results.md`, `reports/results.html` and the figures. Every number is read from a file.

Reads, below `outputs/<run>/`, `metrics.json`, `examples.jsonl`, `samples.jsonl`, `train_log.jsonl`, `manifest.json`,
`provenance.json`, `environment.json` and the stage records. Writes `reports/results.md`, `reports/results.html` (one file,
figures included), `reports/figures/*.{svg,png}`, and `outputs/<run>/RESULTS.sha256`. Both show the same page (`view`), so they cannot disagree.
A missing value is an error, and then nothing is written. All that may differ between two equal runs stands in the last
section, "This run".

Run as: python -m lorabundle.report --config config/default.yaml
"""

import sys
from dataclasses import replace

from lorabundle import artifacts, colophon, config, figures, render, view
from lorabundle.blocks import Section
from lorabundle.config import Config
from lorabundle.fields import Fields
from lorabundle.figures import Drawing
from lorabundle.results import LISTING, listing, paths
from lorabundle.stage import Artifacts, run_stage
from lorabundle.view import Results

RECORDED = ("fetch", "preprocess", "train", "evaluate", "sample")
OBJECTS = ("metrics", "manifest", "provenance", "environment")
ROWS = {"samples": "samples.jsonl", "examples": "examples.jsonl", "journal": "train_log.jsonl"}


def load(run_config: Config) -> Results:
    """The run's files.

    Raises:
        MissingInputError: one is not there.
        MalformedInputError: one cannot be parsed.
    """
    folder = run_config.run_dir
    remedy = f"Run `make all CONFIG=...` for run {run_config.run}: the report needs every earlier stage."
    objects = {name: Fields(artifacts.read_json(folder / f"{name}.json", remedy), f"{name}.json") for name in OBJECTS}
    rows = {
        name: [Fields(row, f"{file}:{n}") for n, row in enumerate(artifacts.read_jsonl(folder / file, remedy), start=1)]
        for name, file in ROWS.items()
    }
    records = {
        name: Fields(artifacts.read_json(run_config.record_path(name), remedy), f"stages/{name}.json")
        for name in RECORDED
    }
    return Results(**objects, **rows, records=records)


def draw(results: Results) -> dict[str, Drawing]:
    """The figures, by name."""
    changes = [(row.part("finetuned")["nats"] - row.part("base")["nats"]) / row["tokens"] for row in results.examples]
    histograms = {
        what: {
            name: (values["edges"], values["counts"])
            for name in config.SPLITS
            for values in [results.manifest.part("lengths").part(name).part(what)]
        }
        for what in ("prompt", "response")
    }
    return {
        "loss": figures.loss_curve(*view.loss_points(results.journal)),
        "change": figures.change_histogram(changes, results.metrics.part("sign_test")),
    } | {f"{what}_lengths": figures.length_histogram(lengths, what) for what, lengths in histograms.items()}


def run(run_config: Config) -> Artifacts:
    """Render the report."""
    results = load(run_config)
    page = view.page(run_config, results)
    listed = listing(run_config, render.markdown(page))
    last = colophon.this_run(results.environment, results.records, artifacts.sha256_bytes(listed.encode()))
    page = replace(page, sections=[*page.sections, Section("This run", last)])
    drawings = draw(results)
    inline = {name: figures.inline_svg(drawing["svg"], name) for name, drawing in drawings.items()}
    files: dict[str, str | bytes] = {"results.md": render.markdown(page), "results.html": render.html(page, inline)}
    for name, drawing in drawings.items():
        files |= {f"figures/{name}.{extension}": content for extension, content in drawing.items()}
    for name, content in files.items():  # only now, so that an error above leaves no half of a report
        artifacts.atomic_write(config.REPORTS / name, content)
    artifacts.atomic_write(run_config.run_dir / LISTING, listed)
    read = [run_config.run_dir / name for name in (*(f"{name}.json" for name in OBJECTS), *ROWS.values())]
    return Artifacts(
        inputs=[*dict.fromkeys([*read, *map(run_config.record_path, RECORDED), *paths(run_config)])],
        outputs=[run_config.run_dir / LISTING, *(config.REPORTS / name for name in files)],
    )


if __name__ == "__main__":
    sys.exit(run_stage("report", run))
