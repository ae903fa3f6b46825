"""Base and fine-tuned model on the same test tokens.

Reads `data/models/<name>/`, `data/processed/` and `outputs/<run>/adapter/`; writes `outputs/<run>/examples.jsonl`, all that was
measured on each example, and `metrics.json`, whose aggregates can be recomputed from it.
Loss is total nats over all response tokens, the closing end-of-turn token included, divided by their number.

Run as: python -m lorabundle.evaluate --config config/default.yaml
"""

import logging
import math
import sys
from collections import Counter, defaultdict

from datasets import load_from_disk

from lorabundle.compute import numerics
from lorabundle.compute.generate import generate
from lorabundle.compute.load import load_adapter, load_base
from lorabundle.compute.scoring import Score, mean_loss, score_responses
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.errors import AdapterError
from lorabundle.core.files import hash_paths, read_json, write_json, write_jsonl
from lorabundle.core.fingerprint import check_splits
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.data import reasoning_gym
from lorabundle.evaluation import metrics
from lorabundle.evaluation.aggregate import summarise
from lorabundle.evaluation.sanity_checks import check_plausible, find_mistakes
from lorabundle.model import prompts
from lorabundle.model.convert import check_unchanged, load_tokenizer

log = logging.getLogger("lorabundle.evaluate")


def check_adapter_is_of_base(run_config: Config) -> None:
    """Compare the base model and the adapter with what training read and wrote, by sha256.

    Raises:
        AdapterError: the base model is another one, or the adapter was changed. (An adapter fits any base of the same shape,
            and gives a plausible but wrong loss on it.)
    """
    record = read_json(run_config.record_path("train"), "Run `make train` first.")
    for role, folder, hashes in (
        ("base model", run_config.model_dir, record["inputs"]),
        ("adapter", run_config.adapter_dir, record["outputs"]),
    ):
        for path, digest in hash_paths(sorted(folder.glob("*.safetensors"))).items():
            if hashes.get(path) != digest:
                raise AdapterError(
                    f"{path} is not the {role} of the training whose record is {run_config.record_path('train')}: its sha256 is "
                    f"{digest}, the record says {hashes.get(path, 'nothing of it')}. Delete the record and run the same command again, which then "
                    f"trains anew."
                )


def measure(model, tokenizer, rows: list[dict], scores: list[Score], run_config: Config) -> list[dict]:
    """What `examples.jsonl` holds of one model, in the rows' order: loss, greedy answer, and the answer's scores."""
    settings = run_config.evaluate
    prompt_ids = [prompts.encode_prompt(tokenizer, row["prompt"]) for row in rows]
    answers = generate(model, tokenizer, prompt_ids, settings.max_new_tokens, settings.batch_size)
    texts, references = [answer.text for answer in answers], [reference(row) for row in rows]
    verified = run_config.data.source == reasoning_gym.SOURCE
    marks = reasoning_gym.verify([row["id"] for row in rows], texts, run_config.data.tasks) if verified else []
    results = []
    for score, answer, of_text in zip(scores, answers, metrics.score_answers(texts, references), strict=True):
        result = {"nats": score.nats, "correct": score.correct, "text": answer.text, "stopped": answer.stopped}
        results.append(result | of_text)
    for result, mark in zip(results, marks, strict=False):  # only tasks with right answers have marks
        result["score"] = mark
    return results


def reference(row: dict) -> str:
    """The answer that the dataset gives to the row's prompt."""
    return row["completion"][0]["content"]


def majority_answers(train_rows: list[dict], rows: list[dict]) -> list[str]:
    """For each row, the answer that is most frequent among the training rows of its kind; "" for a kind that has none.

    Always giving it takes no model, and can look like skill: of numbers up to 50, most pairs have 1 or 2 as their greatest
    common divisor.
    """
    answers: dict[str, Counter] = defaultdict(Counter)
    for row in train_rows:
        answers[row["kind"]][reference(row)] += 1
    most_frequent = {kind: min(counts, key=lambda text: (-counts[text], text)) for kind, counts in answers.items()}
    return [most_frequent.get(row["kind"], "") for row in rows]


def baselines_of(train_rows: list[dict], test_rows: list[dict], vocab_size: int) -> dict:
    """What no model is needed for, over the test's response tokens: the `baselines` of metrics.json."""

    def responses(rows: list[dict]) -> list[int]:
        return [label for row in rows for label in row["labels"] if label != prompts.IGNORE_INDEX]

    unigram = metrics.unigram_baseline(responses(train_rows), responses(test_rows), vocab_size)
    return {"uniform": {"loss": math.log(vocab_size), "perplexity": float(vocab_size)}, "unigram": unigram}


def run(run_config: Config) -> Artifacts:
    """Evaluate both models and the two baselines."""
    numerics.prepare(run_config)
    manifest = check_splits(run_config)
    check_unchanged(run_config.model_dir)
    check_adapter_is_of_base(run_config)
    train_rows = load_from_disk(config.PROCESSED / "train").select_columns(["kind", "completion", "labels"]).to_list()
    rows = load_from_disk(config.PROCESSED / "test").to_list()
    tokenizer = load_tokenizer(run_config.model_dir)
    model = load_base(run_config)
    baselines = baselines_of(train_rows, rows, model.config.vocab_size)

    def score() -> list[Score]:
        return score_responses(model, rows)

    scores = {"base": score()}
    mistakes = find_mistakes(run_config, rows, manifest, model, tokenizer)
    warnings = check_plausible(mean_loss(scores["base"]), baselines, mistakes)
    for warning in warnings:
        log.warning("%s", warning)
    results = {"base": measure(model, tokenizer, rows, scores["base"], run_config)}
    model = load_adapter(model, run_config.adapter_dir)
    scores["finetuned"] = score()
    if scores["finetuned"] == scores["base"]:
        raise AdapterError(
            f"The adapter in {run_config.adapter_dir} changes nothing: every test example has the base model's loss to the last "
            f"digit. It was not applied, or not trained. Run `make train` again."
        )
    results["finetuned"] = measure(model, tokenizer, rows, scores["finetuned"], run_config)

    examples = []
    for index, row in enumerate(rows):
        example = {key: row[key] for key in ("id", "group", "kind", "prompt")} | {"reference": reference(row)}
        example["tokens"] = scores["base"][index].tokens
        examples.append(example | {name: answers[index] for name, answers in results.items()})
    if run_config.data.source == reasoning_gym.SOURCE:
        answers = majority_answers(train_rows, rows)
        marks = reasoning_gym.verify([row["id"] for row in rows], answers, run_config.data.tasks)
        for example, text, mark in zip(examples, answers, marks, strict=True):
            example["majority"] = {"text": text, "score": mark}
    summary = summarise(examples, run_config.seed)
    for name, values in summary["models"].items():
        log.info(
            "%s: loss %.4f, perplexity %.2f, ROUGE-L %.3f", name, *map(values.get, ("loss", "perplexity", "rougeL"))
        )
    result = {
        "schema": 1,
        "run": run_config.run,
        "seed": run_config.seed,
        "dataset": {"source": manifest["source"], "splits": manifest["splits"]},
        "warnings": warnings,
        "baselines": baselines,
        **summary,
    }
    outputs = [run_config.run_dir / name for name in ("examples.jsonl", "metrics.json")]
    write_jsonl(outputs[0], examples)
    write_json(outputs[1], result)
    return Artifacts(
        inputs=[run_config.model_dir, run_config.adapter_dir, config.PROCESSED / "train", config.PROCESSED / "test"],
        outputs=outputs,
    )


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", run))
