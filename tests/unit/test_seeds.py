"""Mean and standard deviation over runs that differ in the seed alone."""

from pathlib import Path

import pytest
import yaml

from lorabundle import seeds
from lorabundle.core.errors import ConfigError
from lorabundle.core.files import write_json


def finished(seed: int, loss: float, **settings) -> Path:
    folder = Path("outputs") / f"r-seed-{seed}"
    model = dict.fromkeys(("perplexity", "token_accuracy", "rougeL", "chrf", "exact_match", "stop_rate"), 0.5)
    models = {"finetuned": model | {"loss": loss, "accuracy": {"rate": loss / 10}}}
    delta = {"loss": {"mean": loss - 3.0}}
    write_json(folder / "metrics.json", {"run": folder.name, "seed": seed, "models": models, "delta": delta})
    write_json(folder / "manifest.json", {"splits": "equal"})
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": folder.name, "seed": seed, "lora": {"r": 4}} | settings))
    return folder


def test_mean_and_standard_deviation_by_hand(workspace):
    """Losses 1, 2, 3: mean 2, sample standard deviation 1 (not the population's 0.82)."""
    result = seeds.compare([finished(seed, loss) for seed, loss in [(0, 1.0), (1, 2.0), (2, 3.0)]])
    assert (result["mean"]["loss"], result["std"]["loss"]) == (2.0, 1.0)
    assert (result["mean"]["loss_change"], result["std"]["rougeL"]) == (-1.0, 0.0)
    assert [(run["seed"], run["loss"], run["accuracy"]) for run in result["runs"]] == [
        (0, 1.0, 0.1),
        (1, 2.0, 0.2),
        (2, 3.0, 0.3),
    ]


def test_table_has_each_run_and_the_spread(workspace):
    text = seeds.render(seeds.compare([finished(7, 1.0), finished(8, 2.0)]))
    assert "| 7 | 1.0000 | -2.0000 |" in text
    assert "| mean | 1.5000 | -1.5000 |" in text
    assert "| standard deviation | 0.7071 | 0.7071 |" in text
    assert "`outputs/r-seed-7/metrics.json`" in text


def test_runs_that_differ_in_more_than_the_seed_are_refused(workspace):
    with pytest.raises(ConfigError, match="same settings and data and different seeds"):
        seeds.compare([finished(0, 1.0), finished(1, 2.0, lora={"r": 8})])
    with pytest.raises(ConfigError, match="same settings and data and different seeds"):
        seeds.compare([finished(0, 1.0), finished(0, 1.0)])


def test_one_run_has_no_spread(workspace):
    with pytest.raises(ConfigError, match="at least two"):
        seeds.compare([finished(0, 1.0)])
