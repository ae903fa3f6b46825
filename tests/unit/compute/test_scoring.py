"""Loss and token accuracy on a tiny random model, compared with plain transformers."""

import pytest
import torch

from lorabundle.compute import scoring
from lorabundle.compute.scoring import Score, mean_loss, score_responses
from lorabundle.model.prompts import IGNORE_INDEX

ROWS = [
    {"input_ids": [0, 5, 3, 7, 8, 1, 3, 0, 6, 3, 9, 1], "labels": [IGNORE_INDEX] * 10 + [9, 1]},
    {"input_ids": [0, 5, 3, 7, 1, 3, 0, 6, 3, 12, 11, 13, 14, 1], "labels": [IGNORE_INDEX] * 9 + [12, 11, 13, 14, 1]},
    {"input_ids": [0, 5, 1, 1], "labels": [IGNORE_INDEX] * 3 + [1]},
]


def test_mean_loss_weights_tokens_not_rows():
    """9 nats on 1 token and 1 nat on 9: 10/10 = 1, where the mean of the rows' means would be 4.56."""
    assert mean_loss([Score(9.0, 1, 0), Score(1.0, 9, 9)]) == 1.0


def test_scores_match_plain_transformers_row_by_row(any_model):
    scores = score_responses(any_model, ROWS)
    for row, score in zip(ROWS, scores, strict=True):
        with torch.no_grad():
            output = any_model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        assert score.tokens == sum(label != IGNORE_INDEX for label in row["labels"])
        assert score.nats / score.tokens == pytest.approx(output.loss.item(), abs=1e-5)
        predicted = output.logits[0, :-1].argmax(dim=-1)
        labels = torch.tensor(row["labels"][1:])
        assert score.correct == int(((predicted == labels) & (labels != IGNORE_INDEX)).sum())


@pytest.mark.parametrize("pass_tokens", [1, 20])
def test_loss_does_not_depend_on_the_batches(tiny_model, monkeypatch, pass_tokens):
    """The past bug: eval loss changed with the batch size, because per-batch means were averaged."""
    expected = mean_loss(score_responses(tiny_model, ROWS))
    monkeypatch.setattr(scoring, "PASS_TOKENS", pass_tokens)  # a row a pass; the two short rows in one
    loss = mean_loss(score_responses(tiny_model, ROWS))
    assert loss == pytest.approx(expected, rel=1e-6)  # float32 resolves 1.2e-7


def test_logits_in_portions(tiny_model, monkeypatch):
    """Eight response tokens, three at a time: the last portion is a smaller one, and both are filled up to a multiple of two."""
    in_one_portion = score_responses(tiny_model, ROWS)
    monkeypatch.setattr(scoring, "HEAD_ROWS", 3)
    monkeypatch.setattr(scoring, "HEAD_MULTIPLE", 2)
    for score, expected in zip(score_responses(tiny_model, ROWS), in_one_portion, strict=True):
        assert score == Score(pytest.approx(expected.nats, rel=1e-6), expected.tokens, expected.correct)


def test_scores_come_back_in_the_rows_order(tiny_model):
    forward = score_responses(tiny_model, ROWS)
    backward = score_responses(tiny_model, ROWS[::-1])
    assert [score.tokens for score in forward] == [score.tokens for score in backward[::-1]] == [2, 5, 1]
