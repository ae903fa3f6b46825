"""Scores that need no model: a uniform guess, token frequencies, and the most frequent answer."""

import math
from collections import Counter, defaultdict

from lorabundle.model.prompts import IGNORE_INDEX


def reference(row: dict) -> str:
    """The dataset's answer that the generated one is compared with: that of the last assistant turn."""
    return row["completion"][-1]["content"]


def turns_before(row: dict) -> list[dict]:
    """What the generated answer answers to: all turns before the last assistant turn, the dataset's answers among them."""
    return [*row["prompt"], *row["completion"][:-1]]


def token_baselines(train_rows: list[dict], test_rows: list[dict], vocab_size: int) -> dict:
    """The `baselines` of metrics.json, over the response tokens of the test split."""

    def responses(rows: list[dict]) -> list[int]:
        return [label for row in rows for label in row["labels"] if label != IGNORE_INDEX]

    uniform = {"loss": math.log(vocab_size), "perplexity": float(vocab_size)}
    return {"uniform": uniform, "unigram": unigram_baseline(responses(train_rows), responses(test_rows), vocab_size)}


def unigram_baseline(train_ids: list[int], test_ids: list[int], vocab_size: int) -> dict[str, float]:
    """What a guess scores that knows only how often each token occurs in the training responses (add-one smoothed).

    Returns {"loss": nats a token, "perplexity", "token_accuracy": of always guessing the most frequent token}.
    """
    counts = Counter(train_ids)
    total = len(train_ids) + vocab_size
    loss = -sum(math.log((counts[token] + 1) / total) for token in test_ids) / len(test_ids)
    most_frequent = min(counts, key=lambda token: (-counts[token], token))
    accuracy = test_ids.count(most_frequent) / len(test_ids)
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": accuracy}


def majority_answers(train_rows: list[dict], rows: list[dict]) -> list[str]:
    """For each row, the most frequent answer among the training rows of its kind; "" for a kind without training rows.

    Always giving this answer can look like skill: of numbers up to 50, most pairs have 1 or 2 as their greatest common divisor.
    """
    answers: dict[str, Counter] = defaultdict(Counter)
    for row in train_rows:
        answers[row["kind"]][reference(row)] += 1
    most_frequent = {kind: min(counts, key=lambda text: (-counts[text], text)) for kind, counts in answers.items()}
    return [most_frequent.get(row["kind"], "") for row in rows]
