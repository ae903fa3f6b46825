"""Evaluate the base model and the fine-tuned model on the same test tokens.

Reads `data/models/<name>/`, `data/processed/` and `outputs/<run>/adapter/`. Writes `outputs/<run>/examples.jsonl`, everything that
was measured on each example, and `metrics.json`, whose aggregates can be recomputed from it.
Loss is the sum of nats over all response tokens, the closing end-of-turn token included, divided by the number of these tokens.

Run as: python -m lorabundle.evaluate --config config/default.yaml
"""

import logging
import sys
from pathlib import Path

from datasets import load_from_disk

from lorabundle.compute import numerics, precision
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
from lorabundle.evaluation.aggregate import summarise
from lorabundle.evaluation.answer_scores import score_answers
from lorabundle.evaluation.baselines import majority_answers, reference, token_baselines, turns_before
from lorabundle.evaluation.labels import add_marks, labels_of
from lorabundle.evaluation.sanity_checks import check_plausible, find_mistakes
from lorabundle.model import prompts
from lorabundle.model.architecture import check_unchanged, load_tokenizer

log = logging.getLogger("lorabundle.evaluate")


def run(run_config: Config) -> Artifacts:
    """Evaluate both models and the baselines."""
    numerics.prepare(run_config)
    manifest = check_splits(run_config)
    check_unchanged(run_config.model_dir)
    check_adapter_is_of_base(run_config)
    train_rows = load_from_disk(config.PROCESSED / "train").select_columns(["kind", "completion", "labels"]).to_list()
    rows = load_from_disk(config.PROCESSED / "test").to_list()
    tokenizer = load_tokenizer(run_config.model_dir)
    model = load_base(run_config)
    baselines = token_baselines(train_rows, rows, model.config.vocab_size)

    base_scores = score_responses(model, rows)
    mistakes = find_mistakes(run_config, rows, manifest, model, tokenizer)
    warnings = check_plausible(mean_loss(base_scores), baselines, mistakes)
    for warning in warnings:
        log.warning("%s", warning)
    base = measure(model, tokenizer, rows, base_scores, run_config)

    model = load_adapter(model, run_config.adapter_dir)
    finetuned_scores = score_responses(model, rows)
    check_adapter_has_effect(base_scores, finetuned_scores, run_config)
    finetuned = measure(model, tokenizer, rows, finetuned_scores, run_config)

    examples = example_rows(rows, base_scores, base, finetuned)
    if has_verifier(run_config):
        add_majority(examples, train_rows, rows, run_config)
    facts = {"dataset": {"source": manifest["source"], "splits": manifest["splits"]}}
    facts |= {"warnings": warnings, "baselines": baselines, **formats(run_config)}
    if not has_verifier(run_config) and (labels := labels_of([*map(reference, train_rows)], [*map(reference, rows)])):
        log.info("answers are labels, so the share of right ones is counted: %s", ", ".join(labels))
        add_marks(examples, majority_answers(train_rows, rows))
        facts["labels"] = labels
    return Artifacts(
        inputs=[run_config.model_dir, run_config.adapter_dir, config.PROCESSED / "train", config.PROCESSED / "test"],
        outputs=write_results(run_config, examples, facts),
    )


def formats(run_config: Config) -> dict:
    """What weights were kept and multiplied in; empty if training and evaluation each used one ordinary dtype throughout."""
    of_training = read_json(run_config.run_dir / "environment.json", "Run `make train` first.")
    here = precision.resolve(run_config).facts
    both = {"training": {key: of_training[key] for key in here}, "evaluation": here}
    return {"formats": both} if any(len(set(used.values())) > 1 for used in both.values()) else {}


def check_adapter_is_of_base(run_config: Config) -> None:
    """Compare the base model and the adapter with what training read and wrote, by sha256.

    Raises:
        AdapterError: the base model is another one, or the adapter was changed. (An adapter fits any base model of the same
            shape, and gives a plausible but wrong loss on it.)
    """
    record_path = run_config.record_path("train")
    record = read_json(record_path, "Run `make train` first.")
    for role, folder, hashes in (
        ("base model", run_config.model_dir, record["inputs"]),
        ("adapter", run_config.adapter_dir, record["outputs"]),
    ):
        for path, digest in hash_paths(sorted(folder.glob("*.safetensors"))).items():
            if hashes.get(path) != digest:
                raise AdapterError(
                    f"{path} is not the {role} of the training recorded in {record_path}: its sha256 is {digest}, but the record "
                    f"has {hashes.get(path, 'none for this file')}. Delete {record_path} and run the same command again: it then "
                    f"trains again."
                )


def check_adapter_has_effect(base: list[Score], finetuned: list[Score], run_config: Config) -> None:
    """Compare the two models' scores of the test examples.

    Raises:
        AdapterError: they are all equal.
    """
    if finetuned == base:
        raise AdapterError(
            f"The adapter in {run_config.adapter_dir} changes nothing: on every test example its loss is exactly the base model's. "
            f"It was not applied, or not trained. Run `make train` again."
        )


def measure(model, tokenizer, rows: list[dict], scores: list[Score], run_config: Config) -> list[dict]:
    """What `examples.jsonl` says of one model, one dict for each row: loss, greedy answer, and the answer's scores."""
    settings = run_config.evaluate
    prompt_ids = [prompts.encode_prompt(tokenizer, turns_before(row), prompts.tools_of(row)) for row in rows]
    answers = generate(model, tokenizer, prompt_ids, settings.max_new_tokens, settings.batch_size)
    texts = [answer.text for answer in answers]
    answer_scores = score_answers(texts, [reference(row) for row in rows])
    results = [
        {"nats": score.nats, "correct": score.correct, "text": answer.text, "stopped": answer.stopped} | of_answer
        for score, answer, of_answer in zip(scores, answers, answer_scores, strict=True)
    ]
    if has_verifier(run_config):
        for result, mark in zip(results, verifier_marks(rows, texts, run_config), strict=True):
            result["score"] = mark
    return results


def has_verifier(run_config: Config) -> bool:
    """Whether the dataset's questions have right answers that a verifier can tell."""
    return run_config.data.source == reasoning_gym.SOURCE


def verifier_marks(rows: list[dict], answers: list[str], run_config: Config) -> list[float]:
    """The verifier's mark for each row's answer: 1.0 if it is right."""
    return reasoning_gym.verify([row["id"] for row in rows], answers, run_config.data.tasks)


def example_rows(rows: list[dict], scores: list[Score], base: list[dict], finetuned: list[dict]) -> list[dict]:
    """The rows of `examples.jsonl`; `base` and `finetuned` are from `measure`, and `scores` has the number of tokens."""
    return [
        {
            **{key: row[key] for key in ("id", "group", "kind")},
            "prompt": [{key: turn[key] for key in ("role", "content")} for turn in turns_before(row)],
            "reference": reference(row),
            "tokens": score.tokens,
            "base": base_result,
            "finetuned": finetuned_result,
        }
        for row, score, base_result, finetuned_result in zip(rows, scores, base, finetuned, strict=True)
    ]


def add_majority(examples: list[dict], train_rows: list[dict], rows: list[dict], run_config: Config) -> None:
    """Add to each example the most frequent training answer of its kind, and that answer's mark."""
    answers = majority_answers(train_rows, rows)
    for example, text, mark in zip(examples, answers, verifier_marks(rows, answers, run_config), strict=True):
        example["majority"] = {"text": text, "score": mark}


def write_results(run_config: Config, examples: list[dict], facts: dict) -> list[Path]:
    """Write `examples.jsonl` and `metrics.json`, log the main numbers, and return the two paths.

    Args:
        run_config: of the run.
        examples: rows of examples.jsonl.
        facts: keys of metrics.json that do not follow from the examples.
    """
    summary = summarise(examples, run_config.seed)
    for name, values in summary["models"].items():
        log.info(
            "%s: loss %.4f, perplexity %.2f, ROUGE-L %.3f", name, *map(values.get, ("loss", "perplexity", "rougeL"))
        )
    examples_path, metrics_path = (run_config.run_dir / name for name in ("examples.jsonl", "metrics.json"))
    write_jsonl(examples_path, examples)
    write_json(metrics_path, {"schema": 1, "run": run_config.run, "seed": run_config.seed, **facts, **summary})
    return [examples_path, metrics_path]


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", run))
