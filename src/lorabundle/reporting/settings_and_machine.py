"""The end of the report: the settings, the files that the numbers come from, and the machine that computed them."""

import json

from lorabundle.core.config import Config
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.figures import FIGURES
from lorabundle.reporting.page import Block, Code, Inline, Line, Paragraph, Table

# The run's files that the report is made from: file -> (written by, parts of the report that show it, besides figures)
ORIGINS = {
    "metrics.json": ("evaluate", "Results, changes, sign test, results by kind"),
    "examples.jsonl": ("evaluate", ""),
    "train_log.jsonl": ("train", ""),
    "samples.jsonl": ("sample", "Samples"),
    "manifest.json": ("preprocess", "Data card"),
    "provenance.json": ("fetch", "Base model"),
    "config.yaml": ("config", "Settings"),
    "environment.json": ("train", "Machine and software"),
    "stages/<stage>.json": ("every stage", "Time and memory"),
}


def settings_tables(run_config: Config) -> list[Table]:
    """Every setting that decides the results, with a table for each section of the config."""
    settings = run_config.model_dump(exclude={"run"})
    sections = {"run": {key: settings.pop(key) for key in ("seed", "numerics")}}
    sections |= {name: {f"{name}.{key}": value for key, value in values.items()} for name, values in settings.items()}
    return [
        Table(
            name, "config.yaml", ["Setting", "Value"], [[Code(k), _shown(v)] for k, v in values.items()], text_columns=2
        )
        for name, values in sections.items()
    ]


def _shown(value: object) -> Line:
    """A setting's value as in YAML. Text is shown as code, because paths and names may contain any character."""
    if isinstance(value, str):
        return Code(value)
    if isinstance(value, list) and value:
        return Code(", ".join(map(str, value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.10g}"
    return Code(json.dumps(value, ensure_ascii=False))


def origins(run: str) -> list[Table | Paragraph]:
    """For each part of the report, the file that it is read from."""
    rows: list[list[Line]] = []
    for file, (stage, parts) in ORIGINS.items():
        shown: list[Inline] = [parts] if parts else []
        for figure in (figure for figure in FIGURES if figure.source == file):
            shown += [", figure " if shown else "Figure ", Code(figure.name)]
        rows.append([shown, Code(f"outputs/{run}/{file}"), stage])
    after: Line = [
        "All these files are in the submission archive. ",
        Code(f"outputs/{run}/stages/report.json"),
        " has the sha256 of each file that this report was made from. Every aggregate in metrics.json can be recomputed from "
        "examples.jsonl.",
    ]
    return [
        Table("Files", "the stages' records", ["Part", "File", "Written by"], rows, text_columns=3),
        Paragraph(after),
    ]


def probe_sentence(probe: Fields) -> str:
    """What the probe measured, and what it chose."""
    gflops, milliseconds = probe.part("gflops"), probe.part("attention_ms")
    rates = ", ".join(f"{name} {gflops.number(name, '{:.0f}')} GFLOP/s" for name in ("float32", "bfloat16", "int8"))
    times = ", ".join(f"{name} {milliseconds.number(name, '{:.1f}')} ms" for name in ("eager", "sdpa"))
    chosen = f"{probe.text('dtype')} and {probe.text('attn_implementation')}"
    rates += f" (by {probe.text('int8_kernel')})"
    return f"matrix products: {rates}; attention: {times}; for settings that are auto: {chosen}"


def formats_in_words(facts: Fields) -> str:
    """What a base model's weights were kept and multiplied in, and what all else was computed in."""
    dtype, compute_dtype, activations = (facts.text(f"{name}dtype") for name in ("", "compute_", "activation_"))
    if dtype == compute_dtype == activations:
        return dtype
    return f"weights kept in {dtype} and multiplied in {compute_dtype}, all else in {activations}"


def computed_in(environment: Fields) -> str:
    """The formats and the attention that a training computed in."""
    return f"{formats_in_words(environment)}, {environment.text('attn_implementation')} attention"


def this_run(environment: Fields, records: dict[str, Fields], fingerprint: str) -> list[Block]:
    """Machine, software, time and memory, which may differ between two equal runs.

    The fingerprint (see `core.fingerprint`) may not differ. It is here because it covers everything above this section.
    """
    stages: list[list[Line]] = [
        [name, record.number("seconds", "{:,.1f}"), record.number("peak_rss_bytes", "{:.2f}", 1e-9)]
        for name, record in records.items()
    ]
    total = sum(record["seconds"] for record in records.values())
    peak = max(record["peak_rss_bytes"] for record in records.values())
    stages.append(["all stages", f"{total:,.1f}", f"{peak / 1e9:.2f}"])
    engine = " ".join(filter(None, [environment.text("engine"), environment.text("image")]))
    versions = ", ".join(f"{name} {version}" for name, version in environment.part("packages").items())
    facts: list[list[Line]] = [
        ["CPU", f"{environment.text('cpu')}, {environment.number('cores', '{}')} cores"],
        ["Memory", environment.number("memory_bytes", "{:.1f} GB", 1e-9)],
        ["Threads", environment.number("threads", "{}")],
        ["Numerics", environment.text("numerics")],
        ["Computed in", computed_in(environment)],
        ["Probe of this CPU", probe_sentence(environment.part("probe"))],
        ["Engine", engine],
        ["Platform", f"{environment.text('platform')}, Python {environment.text('python')}"],
        ["Versions", versions],
        ["Commit", environment.text("commit")],
    ]
    return [
        Paragraph(
            [
                "Fingerprint of the results: ",
                Code(fingerprint),
                ". Two runs with this fingerprint have the same results.",
            ]
        ),
        Table("Time and memory by stage", "stages/<stage>.json", ["Stage", "Seconds", "Peak memory (GB)"], stages),
        Table("Machine and software", "environment.json", ["Fact", "Value"], facts, text_columns=2),
    ]
