"""Several runs that differ only in their seed: each one's numbers, their mean and standard deviation.

Reads `metrics.json`, `manifest.json` and `config.yaml` of the runs' folders; writes `reports/seeds.json` and `reports/seeds.md`.

Run as: make seeds SEEDS="0 1 2", which trains and evaluates the runs and then calls
python -m lorabundle.seeds outputs/<run>-seed-0 outputs/<run>-seed-1 ...
"""

import statistics
import sys
from pathlib import Path

import yaml

from lorabundle.core import config
from lorabundle.core.errors import ConfigError, LorabundleError
from lorabundle.core.files import atomic_write, read_json, require, write_json

COLUMNS = {  # key -> heading and format of a fine-tuned model's numbers
    "loss": ("Test loss", "{:.4f}"),
    "loss_change": ("Change of loss", "{:+.4f}"),
    "perplexity": ("Perplexity", "{:.2f}"),
    "token_accuracy": ("Token accuracy", "{:.4f}"),
    "rougeL": ("ROUGE-L", "{:.4f}"),
    "chrf": ("chrF", "{:.2f}"),
    "exact_match": ("Exact match", "{:.4f}"),
    "stop_rate": ("Stop rate", "{:.4f}"),
    "accuracy": ("Accuracy", "{:.4f}"),
}


def compare(folders: list[Path]) -> dict:
    """Numbers of each run's fine-tuned model, and their mean and sample standard deviation (n - 1).

    Returns {"schema", "runs": [{"run", "seed", <column>: value}], "mean": {<column>: value}, "std": {...}}.

    Raises:
        ConfigError: fewer than two runs, or runs that differ in more than their seed: then the spread has another cause too.
    """
    if len(folders) < 2:
        raise ConfigError('A spread needs at least two runs. Give at least two seeds: make seeds SEEDS="0 1 2".')
    runs, common = [], []
    for folder in folders:
        metrics = read_json(folder / "metrics.json", "Run `make seeds` to train and evaluate it.")
        settings = yaml.safe_load(require(folder / "config.yaml", "Run `make seeds`.").read_text())
        manifest = read_json(folder / "manifest.json", "Run `make seeds`.")
        common.append(({k: v for k, v in settings.items() if k not in ("run", "seed")}, manifest))
        runs.append({"run": metrics["run"], "seed": metrics["seed"], **_numbers(metrics)})
    if len({run["seed"] for run in runs}) < len(runs) or any(other != common[0] for other in common):
        raise ConfigError(
            f"The runs {', '.join(run['run'] for run in runs)} must have the same settings and data and different seeds, or "
            f"their spread is not the seeds'. Run `make seeds` again, which makes them so."
        )
    columns = [key for key in COLUMNS if key in runs[0]]
    return {
        "schema": 1,
        "runs": runs,
        "mean": {key: statistics.mean(run[key] for run in runs) for key in columns},
        "std": {key: statistics.stdev(run[key] for run in runs) for key in columns},
    }


def _numbers(metrics: dict) -> dict[str, float]:
    finetuned = metrics["models"]["finetuned"]
    numbers = {key: finetuned[key] for key in COLUMNS if key in finetuned and key != "accuracy"}
    numbers["loss_change"] = metrics["delta"]["loss"]["mean"]
    if "accuracy" in finetuned:
        numbers["accuracy"] = finetuned["accuracy"]["rate"]
    return numbers


def render(result: dict) -> str:
    """`reports/seeds.md`."""
    columns = list(result["mean"])
    rows = [("Seed", *(COLUMNS[key][0] for key in columns)), ("---", *("---:" for _ in columns))]
    for name, values in [
        *((str(run["seed"]), run) for run in result["runs"]),
        ("mean", result["mean"]),
        ("standard deviation", result["std"]),
    ]:
        cells = [COLUMNS[key][1].format(values[key]) for key in columns]
        rows.append((name, *(cell.lstrip("+") if values is result["std"] else cell for cell in cells)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    names = ", ".join(f"`outputs/{run['run']}/metrics.json`" for run in result["runs"])
    return (
        f"# {len(result['runs'])} seeds\n\nThe fine-tuned model on the same test split. The seed decides LoRA's initial weights and "
        f"the order of the training rows; data and all other settings are equal. The standard deviation is the sample's "
        f"(n - 1).\n\n{table}\n\nFrom {names}.\n"
    )


def main() -> int:
    """Compare the runs whose folders are the arguments."""
    try:
        result = compare([Path(argument) for argument in sys.argv[1:]])
        write_json(config.REPORTS / "seeds.json", result)
        atomic_write(config.REPORTS / "seeds.md", render(result))
    except LorabundleError as error:
        print(f"seeds: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    print(f"[seeds] reports/seeds.md: test loss {result['mean']['loss']:.4f} ± {result['std']['loss']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
