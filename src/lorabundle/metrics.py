"""Metrics that need more than arithmetic: ROUGE as an `evaluate.Metric`, the unigram baseline, the bootstrap interval."""

import math
from collections import Counter

import evaluate
import numpy as np
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

from lorabundle.scoring import Score

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL"]


class Rouge(evaluate.Metric):
    """ROUGE F1 (Lin 2004) by its reference implementation, `rouge_score`.

    `evaluate.load("rouge")` is the same computation, but downloads its script from a hub at run time.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean ROUGE F1 between predictions and references, with stemming.",
            citation="Lin, C.-Y. (2004). ROUGE: A Package for Automatic Evaluation of Summaries.",
            inputs_description="predictions, references: one text each per example",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scorer = RougeScorer(ROUGE_TYPES, use_stemmer=True)
        scores = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
        return {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in ROUGE_TYPES}


def unigram_loss(train_ids: list[int], test_ids: list[int], vocab_size: int) -> float:
    """Nats a token of a model that knows only how often each token occurs in the training responses (add-one smoothed)."""
    counts = Counter(train_ids)
    total = len(train_ids) + vocab_size
    return -sum(math.log((counts[token] + 1) / total) for token in test_ids) / len(test_ids)


def loss_difference(
    base: list[Score], finetuned: list[Score], groups: list[str], seed: int, resamples: int = 10_000
) -> dict:
    """Fine-tuned minus base loss, with a 95 % interval from the paired bootstrap over groups (Efron 1979).

    Whole groups are drawn, because their examples are alike: drawing examples would make the interval too narrow.
    Returns {"mean", "ci95": [low, high]} in nats a token; below zero is better.
    """
    _, member_of = np.unique(groups, return_inverse=True)
    tokens = np.bincount(member_of, weights=[score.tokens for score in base])
    change = [after.nats - before.nats for before, after in zip(base, finetuned, strict=True)]
    nats = np.bincount(member_of, weights=change)
    drawn = np.random.default_rng(seed).integers(len(tokens), size=(resamples, len(tokens)))
    differences = nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    low, high = np.percentile(differences, [2.5, 97.5])
    return {"mean": float(nats.sum() / tokens.sum()), "ci95": [float(low), float(high)]}
