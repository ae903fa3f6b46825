"""The report's files as a function of the run's files: nothing is written, nothing of this machine is read.

`report` writes what this returns, and `verify` compares it with what an archive holds.
"""

from dataclasses import replace

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import read_json, read_jsonl
from lorabundle.core.stage import STAGES
from lorabundle.core.strict_json import Fields
from lorabundle.reporting import figures, render
from lorabundle.reporting import results as content
from lorabundle.reporting.figures import Drawing
from lorabundle.reporting.page import Section
from lorabundle.reporting.results import Results, loss_points
from lorabundle.reporting.settings_and_machine import this_run

RECORDED = STAGES[: STAGES.index("report")]
OBJECTS = ("metrics", "manifest", "provenance", "environment")
ROWS = {"samples": "samples.jsonl", "examples": "examples.jsonl", "journal": "train_log.jsonl"}


def load_results(run_config: Config) -> Results:
    """The run's files.

    Raises:
        MissingInputError: one is not there.
        MalformedInputError: one cannot be parsed.
    """
    folder = run_config.run_dir
    remedy = f"Run `make all CONFIG=...` for run {run_config.run}: the report needs every earlier stage."
    objects = {name: Fields(read_json(folder / f"{name}.json", remedy), f"{name}.json") for name in OBJECTS}
    rows = {
        name: [Fields(row, f"{file}:{n}") for n, row in enumerate(read_jsonl(folder / file, remedy), start=1)]
        for name, file in ROWS.items()
    }
    records = {
        name: Fields(read_json(run_config.record_path(name), remedy), f"stages/{name}.json") for name in RECORDED
    }
    return Results(**objects, **rows, records=records)


def _draw(results: Results) -> dict[str, Drawing]:
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
        "loss": figures.loss_curve(*loss_points(results.journal)),
        "change": figures.change_histogram(changes, results.metrics.part("sign_test")),
    } | {f"{what}_lengths": figures.length_histogram(lengths, what) for what, lengths in histograms.items()}


def upper_part(run_config: Config, results: Results) -> str:
    """`results.md` without its last section: what two equal runs have in common."""
    return render.markdown(content.page(run_config, results))


def report_files(run_config: Config, results: Results, fingerprint: str) -> dict[str, bytes]:
    """The report's files, by path below `reports/`. `fingerprint` is of the results (see `results`)."""
    page = content.page(run_config, results)
    last = Section("This run", this_run(results.environment, results.records, fingerprint))
    page = replace(page, sections=[*page.sections, last])
    drawings = _draw(results)
    inline = {name: figures.inline_svg(drawing["svg"], name) for name, drawing in drawings.items()}
    made = {"results.md": render.markdown(page), "results.html": render.html(page, inline)}
    for name, drawing in drawings.items():
        made |= {f"figures/{name}.{extension}": content for extension, content in drawing.items()}
    return {name: content.encode() if isinstance(content, str) else content for name, content in made.items()}
