"""The end of the report: the settings, the files that the numbers come from, and the machine that made them."""

import json

from lorabundle.core.config import Config
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.page import Block, Code, Line, Paragraph, Table


def settings_tables(run_config: Config) -> list[Table]:
    """Every setting that decides the result, a table for each section of the config."""
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
    """A setting's value as YAML would have it. Text is shown as code: paths and names may hold anything."""
    if isinstance(value, str):
        return Code(value)
    if isinstance(value, list) and value:
        return Code(", ".join(map(str, value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.10g}"
    return Code(json.dumps(value, ensure_ascii=False))


def origins(run: str) -> list[Table | Paragraph]:
    """For each part of the report the file that it is read from."""
    files = {
        "Results, changes, sign test, results by kind": ("metrics.json", "evaluate"),
        "Histogram of the change of loss; every aggregate of metrics.json can be recomputed from it": (
            "examples.jsonl",
            "evaluate",
        ),
        "Loss curve": ("train_log.jsonl", "train"),
        "Samples": ("samples.jsonl", "sample"),
        "Data card, histograms of lengths": ("manifest.json", "preprocess"),
        "Base model": ("provenance.json", "fetch"),
        "Settings": ("config.yaml", "config"),
        "Machine and software": ("environment.json", "train"),
        "Time and memory": ("stages/<stage>.json", "every stage"),
    }
    rows: list[list[Line]] = [[part, Code(f"outputs/{run}/{file}"), stage] for part, (file, stage) in files.items()]
    after = ["All are in the submission archive. ", Code(f"outputs/{run}/stages/report.json")]
    after += [" has the sha256 of each file that this report was made from."]
    return [
        Table("Files", "the stages' records", ["Part", "File", "Written by"], rows, text_columns=3),
        Paragraph(after),
    ]


def probe_sentence(probe: Fields) -> str:
    """What the probe measured and what it would choose."""
    gflops, milliseconds = probe.part("gflops"), probe.part("attention_ms")
    rates = ", ".join(f"{name} {gflops.number(name, '{:.0f}')} GFLOP/s" for name in ("float32", "bfloat16"))
    times = ", ".join(f"{name} {milliseconds.number(name, '{:.1f}')} ms" for name in ("eager", "sdpa"))
    chosen = f"{probe.text('dtype')} and {probe.text('attn_implementation')}"
    return f"matrix products: {rates}; attention: {times}; where the config says auto, {chosen} are used"


def this_run(environment: Fields, records: dict[str, Fields], fingerprint: str) -> list[Block]:
    """Machine, software, time and memory: what may differ between two equal runs.

    The fingerprint (see `results`) may not; it stands here because it covers all that stands above.
    """
    stages: list[list[Line]] = [
        [name, record.number("seconds", "{:,.1f}"), record.number("peak_rss_bytes", "{:.2f}", 1e-9)]
        for name, record in records.items()
    ]
    total = sum(record["seconds"] for record in records.values())
    peak = max(record["peak_rss_bytes"] for record in records.values())
    stages.append(["all", f"{total:,.1f}", f"{peak / 1e9:.2f}"])
    engine = " ".join(filter(None, [environment.text("engine"), environment.text("image")]))
    versions = ", ".join(f"{name} {version}" for name, version in environment.part("packages").items())
    facts: list[list[Line]] = [
        ["CPU", f"{environment.text('cpu')}, {environment.number('cores', '{}')} cores"],
        ["Memory", environment.number("memory_bytes", "{:.1f} GB", 1e-9)],
        ["Threads", environment.number("threads", "{}")],
        ["Numerics", environment.text("numerics")],
        ["Computed in", f"{environment.text('dtype')}, {environment.text('attn_implementation')} attention"],
        ["Probe of this CPU", probe_sentence(environment.part("probe"))],
        ["Engine", engine],
        ["Platform", f"{environment.text('platform')}, Python {environment.text('python')}"],
        ["Versions", versions],
        ["Commit", environment.text("commit")],
    ]
    return [
        Paragraph(
            ["Fingerprint of the results: ", Code(fingerprint), ". Two runs with the same one have the same results."]
        ),
        Table("Time and memory by stage", "stages/<stage>.json", ["Stage", "Seconds", "Peak memory (GB)"], stages),
        Table("Machine and software", "environment.json", ["Fact", "Value"], facts, text_columns=2),
    ]
