"""What keeping and multiplying weights in fewer bits costs in quality: adapters of several seeds, trained in each pair of formats.

Each adapter is tested twice: on the base model in its own formats, as a run's evaluation does it, and on the float32 base model,
which shows what training through fewer bits changes by itself. The seeds, and so the adapters' first weights and the order of the
rows, are the same in all formats. Right answers are counted where the data has a verifier.
Reads `data/models/<name>/` and `data/processed/{train,test}/`; writes `outputs/bench/quality-<run>.json` and `.md`.

Run as: make bench-quality (CONFIG=config/reasoning.yaml for tasks with right answers)
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from datasets import Dataset, load_from_disk
from transformers import AutoConfig, PreTrainedModel

from lorabundle import evaluate
from lorabundle.compute import cpu_probe, numerics
from lorabundle.compute.load import load_adapter, load_base
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.files import write_json
from lorabundle.evaluation.intervals import accuracy
from lorabundle.model.architecture import load_tokenizer
from lorabundle.train import make_trainer
from lorabundle.training import step
from lorabundle.training.environment import describe
from tests.bench.bench_evaluation import OUTPUT

SEEDS = (1, 2, 3)
VAL_ROWS = 8  # the trainer scores some after the last step
EXACT = ("float32", "float32")
FORMATS = (EXACT, ("bfloat16", "bfloat16"), ("int8", "int8"), ("int8", "float32"), ("nf4", "float32"))


def formats(rates: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs of formats, kept and multiplied in, to compare on a CPU: bfloat16 only where it is at least as fast as float32."""
    return [pair for pair in FORMATS if pair[1] != "bfloat16" or rates["bfloat16"] >= rates["float32"]]


def first(rows: Dataset, number: int) -> Dataset:
    """The first rows of a split."""
    return rows.select(range(min(number, len(rows))))


def train(run_config: Config, splits: dict[str, Dataset], folder: Path) -> None:
    """Train an adapter as a run does, without checkpoints on the way, and save it."""
    steps = {"save_steps": len(splits["train"]), "eval_steps": len(splits["train"])}
    run_config = run_config.model_copy(update={"run": "bench", "train": run_config.train.model_copy(update=steps)})
    model_config = AutoConfig.from_pretrained(run_config.model_dir)
    shared_tokens = step.count_sharable_tokens(model_config, run_config.lora.lora_dropout, splits["train"])
    trainer = make_trainer(run_config, splits, shared_tokens, fingerprint="")
    trainer.train()
    trainer.model.save_pretrained(folder, save_embedding_layers=False)


def tested(model: PreTrainedModel, rows: list[dict], run_config: Config, answers: bool) -> dict:
    """Test loss of a model in nats a token and, if `answers` and the data has a verifier, the marks of its answers."""
    scores = score_responses(model, rows)
    result = {"loss": mean_loss(scores)}
    if answers and evaluate.has_verifier(run_config):
        tokenizer = load_tokenizer(run_config.model_dir)
        result["marks"] = [row["score"] for row in evaluate.measure(model, tokenizer, rows, scores, run_config)]
    return result


def measure(
    run_config: Config, formats_here: list[tuple[str, str]], splits: dict[str, Dataset], test_rows: list[dict]
) -> dict[str, dict]:
    """For each pair of formats: its base model, and each seed's adapter on it ("own") and on the float32 base model ("exact")."""
    parts = {}
    exact = with_formats(run_config, *EXACT)
    for kept, multiplied in formats_here:
        own = with_formats(run_config, kept, multiplied)
        part = {"base": tested(load_base(own), test_rows, own, answers=True), "own": [], "exact": []}
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                train(own.model_copy(update={"seed": seed}), splits, Path(folder))
                adapted = load_adapter(load_base(own), Path(folder))
                part["own"].append(tested(adapted, test_rows, own, answers=True))
                adapted = load_adapter(load_base(exact), Path(folder))
                part["exact"].append(tested(adapted, test_rows, own, answers=False))
            print(f"[bench] {kept}/{multiplied}, seed {seed}: {part['own'][-1]['loss']:.4f}", flush=True)
        parts[f"{kept}, multiplied in {multiplied}"] = part
    return parts


def with_formats(run_config: Config, kept: str, multiplied: str) -> Config:
    """The config with weights kept and multiplied in these."""
    model = run_config.model.model_copy(update={"dtype": kept, "compute_dtype": multiplied})
    return run_config.model_copy(update={"model": model})


def markdown(result: dict) -> str:
    """The measurements as a table, with the machine they were taken on."""
    environment, parts = result["environment"], result["parts"]
    exact = next(iter(parts.values()))
    has_marks = "marks" in exact["base"]
    headings = [
        "weights kept in",
        "base loss",
        "fine-tuned loss",
        "against float32",
        "seeds",
        "on the float32 base",
        "seeds",
    ]
    headings += ["right answers, all seeds", "95 % interval"] if has_marks else []
    lines = [
        f"Run {result['run']}: {result['train_rows']} training and {result['test_rows']} test examples, {len(SEEDS)} seeds; "
        f"{environment['cpu']}, int8 kernel {result['int8_kernel']}.",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- {'| ---: ' * (len(headings) - 1)}|",
    ]
    for name, part in parts.items():
        cells = [name, f"{part['base']['loss']:.4f}", f"{mean(adapter['loss'] for adapter in part['own']):.4f}"]
        for place in ("own", "exact"):
            pairs = zip(part[place], exact[place], strict=True)
            differences = [adapter["loss"] - reference["loss"] for adapter, reference in pairs]
            cells += [f"{mean(differences):+.4f}", f"{min(differences):+.4f} to {max(differences):+.4f}"]
        if has_marks:
            marks = [mark for adapter in part["own"] for mark in adapter["marks"]]
            right = accuracy(sum(mark == 1 for mark in marks), len(marks))
            cells += [f"{right['rate']:.1%}", "{:.1%} to {:.1%}".format(*right["ci95"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rows", type=int, default=256, help="training examples")
    parser.add_argument("--test-rows", type=int, default=100, help="test examples")
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, arguments.set)
    numerics.use_kernels()
    splits = {
        name: first(load_from_disk(config.PROCESSED / name).select_columns(["input_ids", "labels"]), number)
        for name, number in (("train", arguments.rows), ("val", VAL_ROWS))
    }
    test_rows = first(load_from_disk(config.PROCESSED / "test"), arguments.test_rows).to_list()
    decision = cpu_probe.decision()
    result = {
        "schema": 1,
        "run": run_config.run,
        "environment": describe(run_config),
        "int8_kernel": decision["int8_kernel"],
        "train_rows": len(splits["train"]),
        "test_rows": len(test_rows),
        "parts": measure(run_config, formats(decision["gflops"]), splits, test_rows),
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / f"quality-{run_config.run}.json", result)
    (OUTPUT / f"quality-{run_config.run}.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
