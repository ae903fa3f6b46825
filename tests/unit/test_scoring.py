"""Loss and generation on a tiny random model, against plain transformers."""

import itertools

import pytest
import torch
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

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


@pytest.fixture(params=[None, 5], ids=["full attention", "sliding window"])
def any_model(request, tiny_model):
    """The tiny model; and one that sees the last five tokens alone, as Phi-3-mini does the last 2,047."""
    if request.param is None:
        return tiny_model
    torch.manual_seed(1)
    settings = tiny_model.config.to_dict() | {"sliding_window": request.param}
    return Phi3ForCausalLM(Phi3Config(**settings)).eval()


def test_scores_match_plain_transformers_row_by_row(any_model):
    scores = scoring.score_responses(any_model, ROWS)
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
    whole = scoring.mean_loss(scoring.score_responses(tiny_model, ROWS))
    monkeypatch.setattr(scoring, "PASS_TOKENS", pass_tokens)  # a row a pass; the two short rows in one
    loss = scoring.mean_loss(scoring.score_responses(tiny_model, ROWS))
    assert loss == pytest.approx(whole, rel=1e-6)  # float32 resolves 1.2e-7


def test_logits_in_portions(tiny_model, monkeypatch):
    """Eight response tokens, three at a time: the last portion is a smaller one, and both are filled up to a multiple of two."""
    whole = scoring.score_responses(tiny_model, ROWS)
    monkeypatch.setattr(scoring, "HEAD_ROWS", 3)
    monkeypatch.setattr(scoring, "HEAD_MULTIPLE", 2)
    for score, expected in zip(scoring.score_responses(tiny_model, ROWS), whole, strict=True):
        assert score == Score(pytest.approx(expected.nats, rel=1e-6), expected.tokens, expected.correct)


def test_scores_come_back_in_the_rows_order(tiny_model):
    forward = scoring.score_responses(tiny_model, ROWS)
    backward = scoring.score_responses(tiny_model, ROWS[::-1])
    assert [score.tokens for score in forward] == [score.tokens for score in backward[::-1]] == [2, 5, 1]


PROMPTS = [[0, 5, 3, 7, 8, 1, 3, 0, 6, 3], [0, 5, 3, 7, 1, 3, 0, 6, 3], [0, 6, 3], [0, 5, 3, 9, 9, 1, 0, 6, 3], [0, 8]]


def one_by_one(model, prompt: list[int], max_new_tokens: int) -> list[int]:
    """The new tokens of transformers' own greedy `generate`, for one prompt and no stop token."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=-1, pad_token_id=0)
    input_ids = torch.tensor([prompt])
    outputs = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings)
    return outputs[0, len(prompt) :].tolist()


def test_generation_equals_transformers_one_by_one(any_model, tokenizer, monkeypatch):
    """Each token in turn is the stop token, so that rows finish at different times, and others take their places."""
    expected = [one_by_one(any_model, prompt, 9) for prompt in PROMPTS]
    assert len(set(map(tuple, expected))) == len(PROMPTS)
    for stop, batch_size in itertools.product(range(16), [1, 2, 4, 5]):
        monkeypatch.setattr(scoring, "end_of_turn_id", lambda _, stop=stop: stop)
        generations = scoring.generate(any_model, tokenizer, PROMPTS, max_new_tokens=9, batch_size=batch_size)
        for new_ids, generation in zip(expected, generations, strict=True):
            assert generation.stopped == (stop in new_ids)
            kept = new_ids[: new_ids.index(stop)] if stop in new_ids else new_ids
            assert generation.text == tokenizer.decode(kept, skip_special_tokens=True).strip()


def test_generation_stops_at_the_end_of_turn(tiny_model, tokenizer, monkeypatch):
    """The text ends before the end-of-turn token, and `stopped` tells a finished answer from one that was cut off."""
    new_ids = one_by_one(tiny_model, PROMPTS[0], max_new_tokens=6)
    first_of = [new_ids.index(token) for token in new_ids]
    place = max(place for place, first in enumerate(first_of) if place == first)  # the last token to appear anew
    monkeypatch.setattr(scoring, "end_of_turn_id", lambda _: new_ids[place])
    (stopped,) = scoring.generate(tiny_model, tokenizer, PROMPTS[:1], max_new_tokens=place + 1, batch_size=1)
    (cut,) = scoring.generate(tiny_model, tokenizer, PROMPTS[:1], max_new_tokens=place, batch_size=1)
    assert (stopped.stopped, cut.stopped) == (True, False)
    assert stopped.text == cut.text == tokenizer.decode(new_ids[:place], skip_special_tokens=True).strip()


def test_shared_start_goes_through_the_model_once(tiny_model, tokenizer, monkeypatch):
    """Two prompts of 6 and 7 tokens start with the same 4: 4, then 2 and 3 in a batch each."""
    seen = []
    forward = tiny_model.model.forward
    monkeypatch.setattr(
        tiny_model.model, "forward", lambda **inputs: seen.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    start = [0, 5, 3, 7]
    scoring.generate(tiny_model, tokenizer, [[*start, 8, 9], [*start, 9, 10, 11]], max_new_tokens=1, batch_size=1)
    assert seen == [(1, 4), (1, 3), (1, 2)]


def test_prompts_are_batched_by_number_and_by_tokens(monkeypatch):
    """12 tokens hold two rows of 5 or four of 3; a longer row goes alone; the longest come first."""
    monkeypatch.setattr(scoring, "PROMPT_TOKENS", 12)
    lengths = [3, 20, 5, 3, 3, 5, 3, 3]
    assert scoring._batches_by_length(lengths, batch_size=8) == [[1], [2, 5], [0, 3, 4, 6], [7]]
    assert scoring._batches_by_length(lengths, batch_size=1) == [[1], [2], [5], [0], [3], [4], [6], [7]]
