"""`REPRODUCE.md`: the exact commands that check this archive and reproduce its results, and what to expect."""

import re
from pathlib import Path

from lorabundle.core.strict_json import Fields
from lorabundle.evaluation.tolerances import TOLERANCES, allowed
from lorabundle.reporting.render import fill
from lorabundle.reporting.settings_and_machine import computed_in
from lorabundle.submission.finished_run import FinishedRun
from lorabundle.submission.slsa_provenance import BUILD_TYPE, package_of

NAME = "REPRODUCE.md"
TEMPLATE = Path(__file__).parent / "templates" / f"{NAME}.jinja"


def document(run: FinishedRun) -> str:
    """The page, for this run."""
    config, environment = run.config, run.environment
    return fill(
        TEMPLATE,
        run=config.run,
        top=f"submission-{config.run}",
        portable=config.numerics == "portable",
        fingerprint=run.fingerprint,
        facts=_facts(run),
        engine=environment.text("engine") if environment["engine"] in ("docker", "podman", "venv") else "venv",
        threads=environment["threads"],
        expected=_expected(run),
        stages=[
            (name, record.number("seconds", "{:,.1f}"), record.number("peak_rss_bytes", "{:.2f}", 1e-9))
            for name, record in run.records.items()
        ],
        minutes={
            "eval": _minutes(run, "fetch", "preprocess", "evaluate"),
            "full": _minutes(run, *run.records),
        },
        own=own_files(run),
        inputs=_inputs(run),
        build_type=BUILD_TYPE,
    )


def own_files(run: FinishedRun) -> dict[str, str]:
    """sha256 of files that no command fetches, by path: the author's own dataset, a model from a local folder."""
    files = {}
    if run.manifest.part("format").text("file") != "built" and not run.config.data.revision:
        files |= run.manifest.part("source_sha256")
    if run.config.model.source == "local":
        folder = run.config.model.path
        files |= {f"{folder}/{name}": digest for name, digest in run.provenance.part("files").items()}
    return files


def _facts(run: FinishedRun) -> list[tuple[str, str]]:
    """Machine, software and settings of the run, which decide whether the same bytes can be expected."""
    environment = run.environment
    facts = [
        ("Commit", environment.text("commit")),
        ("Settings", run.of_run("config.yaml")),
        ("Numerics", environment.text("numerics")),
        ("Computed in", computed_in(environment)),
        ("CPU", environment.text("cpu")),
        ("Cores", environment.number("cores", "{}")),
        ("Threads", environment.number("threads", "{}")),
        ("Memory", environment.number("memory_bytes", "{:.1f} GB", 1e-9)),
        ("Engine", " ".join(filter(None, [environment.text("engine"), environment.text("image")]))),
        ("Platform", environment.text("platform")),
        ("Python", environment.text("python")),
        (f"sha256 of {run.runtime_lock}", run.packed[run.runtime_lock.as_posix()]),
    ]
    return facts


def _expected(run: FinishedRun) -> list[tuple[str, ...]]:
    """A row for each metric: its name, base, fine-tuned, the tolerance if evaluated again and if trained again."""
    models = run.metrics.part("models")
    rows = []
    for name in TOLERANCES:
        if name in models.part("base"):
            tolerances = [f"{allowed(name, models['base'], trained):.2g}" for trained in (False, True)]
            shown = [_value(models.part(model)[name]) for model in ("base", "finetuned")]
            rows.append((name, *shown, *tolerances))
    return rows


def _value(metric: float | Fields) -> str:
    return f"{metric['rate'] if isinstance(metric, Fields) else metric:.6f}"


def _minutes(run: FinishedRun, *stages: str) -> str:
    minutes = sum(run.records[stage]["seconds"] for stage in stages) / 60
    return f"{minutes:.0f}" if minutes >= 1 else "under 1"


def _inputs(run: FinishedRun) -> list[tuple[str, str]]:
    """What `make fetch` downloads, with its sha256 or commit."""
    wheels = {path: digest for path, digest in run.records["fetch"].part("inputs").items() if path.endswith(".whl")}
    rows = []
    for path, digest in wheels.items():
        package = package_of(path, digest)
        name = f"{package.name}=={package.version}" if package else re.sub(".*/", "", path)
        rows.append((name, f"sha256 {digest}"))
    for section in (run.config.model, run.config.data):
        if section.revision:
            name = section.path if section is run.config.model else section.source
            rows.append((name, f"commit {section.revision}"))
    return rows
