"""Several runs that differ only in their seed: the numbers of each, their mean and standard deviation.

Reads `metrics.json`, `manifest.json` and `config.yaml` of the runs' folders; writes `reports/seeds.json` and `reports/seeds.md`.

Run as: make seeds SEEDS="0 1 2", which trains and evaluates the runs and then calls
python -m lorabundle.seeds outputs/<run>-seed-0 outputs/<run>-seed-1 ...
"""

import statistics
import sys
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.command import command_parser, run_command
from lorabundle.core.config_file import load_resolved
from lorabundle.core.errors import ConfigError
from lorabundle.core.files import atomic_write, read_json, write_json
from lorabundle.core.strict_json import Fields
from lorabundle.evaluation.metrics import METRICS

REMEDY = "Run `make seeds` to train and evaluate it."

# Heading and number format by key; what a fine-tuned model gained follows its loss
_METRIC_COLUMNS = {key: (metric.heading, metric.seeds_format) for key, metric in METRICS.items() if metric.seeds_format}
COLUMNS = {"loss": _METRIC_COLUMNS["loss"], "loss_change": ("Change of loss", "{:+.4f}"), **_METRIC_COLUMNS}


def compare(folders: list[Path]) -> dict:
    """Numbers of each run's fine-tuned model, and their mean and sample standard deviation (n - 1).

    Returns {"schema", "runs": [{"run", "seed", <column>: value}], "mean": {<column>: value}, "std": {...}}.

    Raises:
        ConfigError: there are fewer than two runs, or they differ in more than their seed, which would also change the numbers.
    """
    if len(folders) < 2:
        raise ConfigError(
            'A standard deviation needs at least two runs. Give at least two seeds: make seeds SEEDS="0 1 2".'
        )
    runs, common = [], []
    for folder in folders:
        metrics = Fields(read_json(folder / "metrics.json", REMEDY), f"{folder}/metrics.json")
        settings = load_resolved(folder / "config.yaml").model_dump(exclude={"run", "seed"})
        common.append((settings, read_json(folder / "manifest.json", REMEDY)))
        runs.append({"run": metrics["run"], "seed": metrics["seed"], **_numbers(metrics)})
    if len({run["seed"] for run in runs}) < len(runs) or any(other != common[0] for other in common):
        raise ConfigError(
            f"The runs {', '.join(run['run'] for run in runs)} must have different seeds, and the same settings and data. Otherwise "
            f"their numbers differ for other reasons too. Run `make seeds` again: it makes such runs."
        )
    columns = [key for key in COLUMNS if key in runs[0]]
    return {
        "schema": 1,
        "runs": runs,
        "mean": {key: statistics.mean(run[key] for run in runs) for key in columns},
        "std": {key: statistics.stdev(run[key] for run in runs) for key in columns},
    }


def _numbers(metrics: Fields) -> dict[str, float]:
    """The columns of one run. A run without right answers has no accuracy."""
    model = metrics.part("models").part("finetuned")
    numbers = {"loss_change": metrics.part("delta").part("loss")["mean"]}
    for key, metric in METRICS.items():
        if metric.seeds_format and not (metric.needs_verifier and key not in model):
            numbers[key] = model.part(key)["rate"] if metric.needs_verifier else model[key]
    return {key: numbers[key] for key in COLUMNS if key in numbers}


def render(result: dict) -> str:
    """`reports/seeds.md`."""
    columns = {key: COLUMNS[key] for key in result["mean"]}
    rows = [["Seed", *(heading for heading, _ in columns.values())], ["---", *("---:" for _ in columns)]]
    named = [(str(run["seed"]), run) for run in result["runs"]] + [("mean", result["mean"])]
    rows += [[name, *(form.format(values[key]) for key, (_, form) in columns.items())] for name, values in named]
    deviations = [form.format(result["std"][key]).lstrip("+") for key, (_, form) in columns.items()]
    rows.append(["standard deviation", *deviations])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    names = ", ".join(f"`outputs/{run['run']}/metrics.json`" for run in result["runs"])
    return (
        f"# {len(result['runs'])} seeds\n\nThe fine-tuned models, each on the same test split. The seed decides LoRA's initial "
        f"weights and the order of the training rows. The data and all other settings are the same. The standard deviation is the "
        f"sample's (n - 1).\n\n{table}\n\nFrom {names}.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Compare the runs whose folders are the arguments."""
    parser = command_parser("seeds", __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folder of an evaluated run")
    arguments = parser.parse_args(argv)

    def work() -> None:
        result = compare(arguments.folders)
        write_json(config.REPORTS / "seeds.json", result)
        atomic_write(config.REPORTS / "seeds.md", render(result))
        print(f"[seeds] reports/seeds.md: test loss {result['mean']['loss']:.4f} ± {result['std']['loss']:.4f}")

    return run_command("seeds", work, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
