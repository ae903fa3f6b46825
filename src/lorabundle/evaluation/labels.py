"""Answers that are labels ("refund", "positive", "3"): which they are, whether an answer is right, and what was answered for what.

For these, the share of right answers says more than words in common with the reference.
"""

from collections import Counter

MOST_LABELS, MOST_WORDS = 20, 7
ROWS_PER_LABEL = (
    4  # fewer training rows for each distinct answer: then these may be short answers to different questions
)
COVERED = 0.9  # least share of the test references that are among the training labels
OTHER = "(none of these)"


def normal(text: str) -> str:
    """A text without white space around it, case, and a final full stop: what makes no other label."""
    return text.strip().removesuffix(".").strip().casefold()


def labels_of(train: list[str], test: list[str]) -> list[str]:
    """The labels that the answers of the training and test rows are, the most frequent first; [] if they are no labels.

    They are if there are 2 to `MOST_LABELS` distinct ones of up to `MOST_WORDS` words in the training rows, each on average in
    `ROWS_PER_LABEL` rows or more, and nearly all test references are among them.
    """
    counts = Counter(map(normal, train))
    if not 2 <= len(counts) <= MOST_LABELS or len(counts) * ROWS_PER_LABEL > len(train):
        return []
    if any(len(label.split()) > MOST_WORDS or len(label) > 60 for label in counts):
        return []
    known = sum(normal(answer) in counts for answer in test)
    return sorted(counts, key=lambda label: (-counts[label], label)) if known >= COVERED * len(test) else []


def mark(answer: str, expected: str) -> float:
    """1.0 if an answer is the expected label, else 0.0."""
    return float(normal(answer) == normal(expected))


def add_marks(examples: list[dict], frequent: list[str]) -> None:
    """Add the marks of both models' answers, and of `frequent`, the most frequent training answers, to rows of examples.jsonl."""
    for example, text in zip(examples, frequent, strict=True):
        for model in ("base", "finetuned"):
            example[model]["score"] = mark(example[model]["text"], example["reference"])
        example["majority"] = {"text": text, "score": mark(text, example["reference"])}


def confusion(examples: list[dict], model: str, labels: list[str]) -> dict[str, Counter]:
    """For each expected label, how often the model answered which label, `OTHER` for any other text."""
    counts: dict[str, Counter] = {label: Counter() for label in labels}
    for example in examples:
        answer, expected = normal(example[model]["text"]), normal(example["reference"])
        counts.setdefault(expected, Counter())[answer if answer in labels else OTHER] += 1
    return counts
