"""Loss and generation on a tiny random model, against plain transformers."""

import pytest
import torch

from lorabundle import scoring
from lorabundle.prompts import IGNORE_INDEX
from lorabundle.scoring import Score

ROWS = [
    {"input_ids": [0, 5, 3, 7, 8, 1, 3, 0, 6, 3, 9, 1], "labels": [IGNORE_INDEX] * 10 + [9, 1]},
    {"input_ids": [0, 5, 3, 7, 1, 3, 0, 6, 3, 12, 11, 13, 14, 1], "labels": [IGNORE_INDEX] * 9 + [12, 11, 13, 14, 1]},
    {"input_ids": [0, 5, 1, 1], "labels": [IGNORE_INDEX] * 3 + [1]},
]


def test_mean_loss_weights_tokens_not_rows():
    """9 nats on 1 token and 1 nat on 9: 10/10 = 1, where the mean of the rows' means would be 4.56."""
    assert scoring.mean_loss([Score(9.0, 1, 0), Score(1.0, 9, 9)]) == 1.0


def test_scores_match_plain_transformers_row_by_row(tiny_model):
    scores = scoring.score_responses(tiny_model, ROWS, batch_size=3)
    for row, score in zip(ROWS, scores, strict=True):
        with torch.no_grad():
            output = tiny_model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        assert score.tokens == sum(label != IGNORE_INDEX for label in row["labels"])
        assert score.nats / score.tokens == pytest.approx(output.loss.item(), abs=1e-5)
        predicted = output.logits[0, :-1].argmax(dim=-1)
        labels = torch.tensor(row["labels"][1:])
        assert score.correct == int(((predicted == labels) & (labels != IGNORE_INDEX)).sum())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_loss_does_not_depend_on_the_batch_size(tiny_model, batch_size):
    """The past bug: eval loss changed with the batch size, because per-batch means were averaged."""
    whole = scoring.mean_loss(scoring.score_responses(tiny_model, ROWS, batch_size=3))
    assert scoring.mean_loss(scoring.score_responses(tiny_model, ROWS, batch_size)) == pytest.approx(whole, abs=1e-6)


def test_scores_come_back_in_the_rows_order(tiny_model):
    forward = scoring.score_responses(tiny_model, ROWS, batch_size=2)
    backward = scoring.score_responses(tiny_model, ROWS[::-1], batch_size=2)
    assert [score.tokens for score in forward] == [score.tokens for score in backward[::-1]] == [2, 5, 1]


def test_generation_in_batches_equals_one_by_one(tiny_model, tokenizer):
    prompts = [[0, 5, 3, 7, 8, 1, 3, 0, 6, 3], [0, 5, 3, 7, 1, 3, 0, 6, 3], [0, 6, 3]]
    together = scoring.generate(tiny_model, tokenizer, prompts, max_new_tokens=6, batch_size=3)
    alone = scoring.generate(tiny_model, tokenizer, prompts, max_new_tokens=6, batch_size=1)
    assert together == alone
    assert len({generation.text for generation in together}) > 1


def test_generation_stops_at_the_end_of_turn(tiny_model, tokenizer, monkeypatch):
    """The text ends before the end-of-turn token, and `stopped` tells a finished answer from one that was cut off."""
    answers = torch.tensor([[0, 6, 3, 9, 1, 9], [0, 6, 3, 8, 8, 8]])
    monkeypatch.setattr(tiny_model, "generate", lambda **kwargs: answers, raising=False)
    first, second = scoring.generate(tiny_model, tokenizer, [[0, 6, 3], [0, 6, 3]], max_new_tokens=3, batch_size=2)
    assert (first.text, first.stopped) == ("general", True)
    assert (second.text, second.stopped) == ("there there there", False)
