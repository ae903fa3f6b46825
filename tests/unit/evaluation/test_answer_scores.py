"""Scores of answers, on hand-worked cases."""

import pytest

from lorabundle.evaluation.answer_scores import Rouge, SacreBleu, repetition_rate, score_answers, sentence_chrf
from lorabundle.evaluation.text_units import TextUnits


def test_rouge_by_hand():
    """Prediction `the cat sat`, reference `the cat ran`: 2 of 3 words, 1 of 2 pairs, longest common run of 2."""
    result = Rouge(keep_in_memory=True).compute(predictions=["the cat sat", "a"], references=["the cat ran", "a"])
    assert result == {
        "rouge1": [pytest.approx(2 / 3), 1.0],
        "rouge2": [pytest.approx(1 / 2), 0.0],
        "rougeL": [pytest.approx(2 / 3), 1.0],
    }


def test_bleu_by_hand():
    """`a b c d e` for `a b c d f`: precisions 4/5, 3/4, 2/3, 1/2, equal lengths, so BLEU = (1/5) ** (1/4)."""
    result = SacreBleu(keep_in_memory=True).compute(predictions=["a b c d e"], references=["a b c d f"])
    assert result["bleu"] == pytest.approx(100 * 0.2**0.25)
    assert result["length_ratio"] == 1.0


def test_length_ratio_is_over_the_corpus():
    result = SacreBleu(keep_in_memory=True).compute(predictions=["a b c", "a"], references=["a", "a b c d e f g"])
    assert result["length_ratio"] == 4 / 8


def test_chrf_by_hand():
    """`ab` for `ac`: 1 of 2 characters, 0 of 1 pair; the orders without n-grams are left out: F of precision 1/4, recall 1/4."""
    assert sentence_chrf("ab", "ac") == pytest.approx(25.0)
    assert sentence_chrf("abc", "abc") == 100.0


@pytest.mark.parametrize(
    ("text", "rate"), [("a b c d", 0.0), ("a b c", 0.0), ("", 0.0), ("a a a a a", 1 / 2), ("a b c d a b c d", 1 / 5)]
)
def test_repetition_rate_by_hand(text, rate):
    """`a b c d a b c d` has 5 four-grams: abcd bcda cdab dabc abcd, of which one is a repeat."""
    assert repetition_rate(text, TextUnits(True, "13a")) == pytest.approx(rate)


def test_each_answer_has_its_scores_under_the_keys_of_the_file():
    first, second = score_answers(["a b", "c"], ["a b", "a b"])
    assert first["exact_match"] is True
    assert second["exact_match"] is False
    assert (first["rouge1"], first["chrf"], second["rougeL"]) == (1.0, 100.0, 0.0)
    assert set(first) == {"rouge1", "rouge2", "rougeL", "chrf", "exact_match", "repetition_rate"}
