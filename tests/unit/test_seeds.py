"""Mean and standard deviation over runs that differ only in the seed."""

from pathlib import Path

import pytest

from lorabundle import seeds
from lorabundle.core.config_file import load_config, write_resolved
from lorabundle.core.errors import ConfigError, MalformedInputError, MissingInputError
from lorabundle.core.files import read_json, write_json
from lorabundle.evaluation.metrics import METRICS
from tests import fake_run


def finished(seed: int, loss: float, *settings: str) -> Path:
    config = load_config(Path("config/smoke.yaml"), [f"run=r-seed-{seed}", f"seed={seed}", *settings])
    write_resolved(config)
    metrics = fake_run.metrics() | {"run": config.run, "seed": seed}
    metrics["models"]["finetuned"] |= {"loss": loss, "accuracy": {"rate": loss / 10}}
    metrics["delta"]["loss"] = {"mean": loss - 3.0}
    write_json(config.run_dir / "metrics.json", metrics)
    write_json(config.run_dir / "manifest.json", {"splits": "equal"})
    return config.run_dir


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


def test_columns_are_the_metrics_that_have_a_format_for_it(workspace):
    text = seeds.render(seeds.compare([finished(7, 1.0), finished(8, 2.0)]))
    (header,) = (line for line in text.splitlines() if line.startswith("| Seed"))
    headings = [metric.heading for metric in METRICS.values() if metric.seeds_format]
    assert header == f"| Seed | Test loss | Change of loss | {' | '.join(headings[1:])} |"
    assert headings[-1] == "Accuracy"


def test_runs_without_right_answers_have_no_accuracy(workspace):
    folders = [finished(7, 1.0), finished(8, 2.0)]
    for folder in folders:
        metrics = read_json(folder / "metrics.json", "")
        del metrics["models"]["finetuned"]["accuracy"]
        write_json(folder / "metrics.json", metrics)
    assert "accuracy" not in seeds.compare(folders)["mean"]


def test_runs_that_differ_in_more_than_the_seed_are_refused(workspace):
    with pytest.raises(ConfigError, match="different seeds, and the same settings and data"):
        seeds.compare([finished(0, 1.0), finished(1, 2.0, "lora.r=8")])
    with pytest.raises(ConfigError, match="different seeds, and the same settings and data"):
        seeds.compare([finished(0, 1.0), finished(0, 1.0)])


def test_one_run_has_no_spread(workspace):
    with pytest.raises(ConfigError, match="at least two"):
        seeds.compare([finished(0, 1.0)])


def test_missing_run_and_missing_metric_are_named(workspace):
    with pytest.raises(MissingInputError, match=r"outputs/none/metrics\.json does not exist\. Run `make seeds`"):
        seeds.compare([finished(0, 1.0), Path("outputs/none")])
    folder = finished(1, 1.0)
    metrics = read_json(folder / "metrics.json", "")
    del metrics["models"]["finetuned"]["chrf"]
    write_json(folder / "metrics.json", metrics)
    with pytest.raises(MalformedInputError, match=r"outputs/r-seed-1/metrics\.json has no models\.finetuned\.chrf"):
        seeds.compare([folder, finished(0, 1.0)])


def test_command_writes_both_files(workspace, capsys):
    assert seeds.main([str(finished(seed, loss)) for seed, loss in [(0, 1.0), (1, 2.0)]]) == 0
    assert capsys.readouterr().out == "[seeds] reports/seeds.md: test loss 1.5000 ± 0.7071\n"
    assert read_json(Path("reports/seeds.json"), "")["mean"]["loss"] == 1.5
    assert Path("reports/seeds.md").read_text().startswith("# 2 seeds\n")


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "at least two runs"), (["a", "b"], "a/metrics.json does not exist")]
)
def test_bad_arguments_give_one_paragraph_and_the_code_of_a_bad_input(workspace, capsys, arguments, said):
    assert seeds.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("seeds: error: ")
    assert said in error
    assert error.count("\n") == 1
    with pytest.raises((ConfigError, MissingInputError)):
        seeds.main([*arguments, "--debug"])


def test_help_is_the_modules_docstring(capsys):
    with pytest.raises(SystemExit):
        seeds.main(["--help"])
    text = capsys.readouterr().out
    assert seeds.__doc__.splitlines()[0] in text
    assert "--debug" in text
