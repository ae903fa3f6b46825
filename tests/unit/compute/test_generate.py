"""Greedy answers of a tiny random model, compared with plain transformers."""

import itertools

import torch
from transformers import GenerationConfig

from lorabundle.compute.generate import _batches_by_length, generate

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
        monkeypatch.setattr("lorabundle.compute.generate.end_of_turn_id", lambda _, stop=stop: stop)
        generations = generate(any_model, tokenizer, PROMPTS, max_new_tokens=9, batch_size=batch_size)
        for new_ids, generation in zip(expected, generations, strict=True):
            assert generation.stopped == (stop in new_ids)
            kept = new_ids[: new_ids.index(stop)] if stop in new_ids else new_ids
            assert generation.text == tokenizer.decode(kept, skip_special_tokens=True).strip()


def test_generation_stops_at_the_end_of_turn(tiny_model, tokenizer, monkeypatch):
    """The text ends before the end-of-turn token, and `stopped` tells a finished answer from one that was cut off."""
    new_ids = one_by_one(tiny_model, PROMPTS[0], max_new_tokens=6)
    first_of = [new_ids.index(token) for token in new_ids]
    place = max(
        place for place, first in enumerate(first_of) if place == first
    )  # the last token that had not appeared before
    monkeypatch.setattr("lorabundle.compute.generate.end_of_turn_id", lambda _: new_ids[place])
    (stopped,) = generate(tiny_model, tokenizer, PROMPTS[:1], max_new_tokens=place + 1, batch_size=1)
    (cut,) = generate(tiny_model, tokenizer, PROMPTS[:1], max_new_tokens=place, batch_size=1)
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
    generate(tiny_model, tokenizer, [[*start, 8, 9], [*start, 9, 10, 11]], max_new_tokens=1, batch_size=1)
    assert seen == [(1, 4), (1, 3), (1, 2)]


def test_prompts_are_batched_by_number_and_by_tokens(monkeypatch):
    """12 tokens hold two rows of 5 or four of 3; a longer row gets its own batch; the longest come first."""
    monkeypatch.setattr("lorabundle.compute.generate.PROMPT_TOKENS", 12)
    lengths = [3, 20, 5, 3, 3, 5, 3, 3]
    assert _batches_by_length(lengths, batch_size=8) == [[1], [2, 5], [0, 3, 4, 6], [7]]
    assert _batches_by_length(lengths, batch_size=1) == [[1], [2], [5], [0], [3], [4], [6], [7]]
