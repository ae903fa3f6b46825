"""Answers that are labels: when they are, and what is counted."""

import pytest

from lorabundle.evaluation.labels import OTHER, add_marks, confusion, labels_of, mark


@pytest.mark.parametrize(
    ("train", "test", "labels"),
    [
        (["yes", "no"] * 8, ["no", "yes"], ["no", "yes"]),
        (["Yes", "yes.", " yes ", "yes", "no", "no", "no", "NO"], ["Yes"], ["no", "yes"]),
        (["a"] * 8 + ["b"] * 4, ["a"], ["a", "b"]),
        (["yes"] * 8, ["yes"], []),  # one answer is no choice
        ([f"answer {n}" for n in range(40)], ["answer 1"], []),  # nearly every row has its own
        (["yes", "no"] * 2 + ["a", "b"], ["no"], []),
        ([f"label {n % 21}" for n in range(210)], ["label 1"], []),  # more than are worth a table
        (["one two three four five six seven eight", "no"] * 10, ["no"], []),  # a sentence
        (["yes", "no"] * 8, ["perhaps", "yes"], []),  # the test split has other answers
    ],
)
def test_when_answers_are_labels(train, test, labels):
    assert labels_of(train, test) == labels


@pytest.mark.parametrize(("answer", "right"), [("Yes", 1.0), (" yes.\n", 1.0), ("yes!", 0.0), ("no", 0.0), ("", 0.0)])
def test_marks(answer, right):
    assert mark(answer, "yes") == right


def example(reference: str, base: str, finetuned: str) -> dict:
    return {"reference": reference, "base": {"text": base}, "finetuned": {"text": finetuned}}


def test_marks_of_both_models_and_of_the_most_frequent_answer():
    examples = [example("yes", "Yes, I think", "yes"), example("no", "no", "yes")]
    add_marks(examples, ["no", "no"])
    assert [[e[m]["score"] for m in ("base", "finetuned", "majority")] for e in examples] == [[0, 1, 0], [1, 0, 1]]
    assert examples[0]["majority"]["text"] == "no"


def test_confusion_by_hand():
    examples = [example("yes", "yes", "no"), example("yes", "maybe", "Yes."), example("no", "no", "no")]
    assert confusion(examples, "base", ["yes", "no"]) == {"yes": {"yes": 1, OTHER: 1}, "no": {"no": 1}}
    assert confusion(examples, "finetuned", ["yes", "no"]) == {"yes": {"no": 1, "yes": 1}, "no": {"no": 1}}
