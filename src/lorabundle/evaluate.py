"""Base and fine-tuned model on the same test tokens.

Reads `data/models/<name>/`, `data/processed/` and `outputs/<run>/adapter/`; writes `outputs/<run>/metrics.json`.
Loss is total nats over all response tokens, the closing end-of-turn token included, divided by their number.

Run as: python -m lorabundle.evaluate --config config/default.yaml
"""

import logging
import math
import sys

from datasets import load_from_disk

from lorabundle import artifacts, config, metrics, modeling, prompts, scoring
from lorabundle.config import Config
from lorabundle.errors import ImplausibleLossError
from lorabundle.stage import Artifacts, run_stage

log = logging.getLogger("lorabundle.evaluate")

DATA_FIRST = "Run `make data` first."


def check_plausible(base_loss: float, vocab_size: int) -> None:
    """Refuse a base loss that is worse than guessing: a sign of a broken mask, shift, tokenizer or weights.

    Raises:
        ImplausibleLossError: `base_loss` is above ln(vocab_size), or not a number.
    """
    if not base_loss <= math.log(vocab_size):
        raise ImplausibleLossError(
            f"The base model's test loss is {base_loss:.4f} nats a token, but guessing uniformly among its {vocab_size} "
            f"tokens would give ln({vocab_size}) = {math.log(vocab_size):.4f}. A trained model cannot be worse than that: "
            f"look for weights that were not loaded, a tokenizer of another model, padding in the labels, or labels "
            f"shifted twice. metrics.json was not written."
        )


def evaluate_model(model, tokenizer, rows: list[dict], settings: config.Evaluate) -> tuple[dict, list[scoring.Score]]:
    """All metrics of one model (the `M` of metrics.json), and the scores per example."""
    scores = scoring.score_responses(model, rows, settings.batch_size)
    prompt_ids = [prompts.encode_prompt(tokenizer, row["prompt"]) for row in rows]
    generations = scoring.generate(model, tokenizer, prompt_ids, settings.max_new_tokens, settings.batch_size)
    references = [row["completion"][0]["content"] for row in rows]
    texts = [generation.text for generation in generations]
    rouge = metrics.Rouge(keep_in_memory=True).compute(predictions=texts, references=references)
    loss = scoring.mean_loss(scores)
    tokens = sum(score.tokens for score in scores)
    result = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "tokens": tokens,
        "examples": len(rows),
        "token_accuracy": sum(score.correct for score in scores) / tokens,
        **rouge,
        "exact_match": sum(map(str.__eq__, texts, references)) / len(rows),
        "stop_rate": sum(generation.stopped for generation in generations) / len(rows),
    }
    return result, scores


def run(run_config: Config) -> Artifacts:
    """Evaluate both models and the two baselines."""
    manifest = artifacts.read_json(config.PROCESSED / "manifest.json", DATA_FIRST)
    rows = load_from_disk(config.PROCESSED / "test").to_list()
    train_rows = load_from_disk(config.PROCESSED / "train")["labels"]
    tokenizer = modeling.load_tokenizer(run_config.model_dir)
    model = modeling.load_base(run_config)
    vocab_size = model.config.vocab_size

    base, base_scores = evaluate_model(model, tokenizer, rows, run_config.evaluate)
    log.info("base: loss %.4f, perplexity %.2f, ROUGE-L %.3f", base["loss"], base["perplexity"], base["rougeL"])
    check_plausible(base["loss"], vocab_size)
    adapted = modeling.load_adapter(model, run_config.adapter_dir)
    tuned, tuned_scores = evaluate_model(adapted, tokenizer, rows, run_config.evaluate)
    log.info(
        "fine-tuned: loss %.4f, perplexity %.2f, ROUGE-L %.3f", tuned["loss"], tuned["perplexity"], tuned["rougeL"]
    )

    def responses(labels: list[list[int]]) -> list[int]:
        return [label for row in labels for label in row if label != prompts.IGNORE_INDEX]

    groups = [row["group"] for row in rows]
    unigram = metrics.unigram_loss(responses(train_rows), responses([row["labels"] for row in rows]), vocab_size)
    result = {
        "schema": 1,
        "run": run_config.run,
        "dataset": {"source": manifest["source"], "splits": manifest["splits"]},
        "baselines": {"uniform": {"loss": math.log(vocab_size)}, "unigram": {"loss": unigram}},
        "models": {"base": base, "finetuned": tuned},
        "delta": {"loss": metrics.loss_difference(base_scores, tuned_scores, groups, run_config.seed)},
    }
    artifacts.write_json(run_config.run_dir / "metrics.json", result)
    return Artifacts(
        inputs=[run_config.model_dir, run_config.adapter_dir, config.PROCESSED / "train", config.PROCESSED / "test"],
        outputs=[run_config.run_dir / "metrics.json"],
    )


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", run))
