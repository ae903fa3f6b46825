"""A row as the model sees it."""

from lorabundle.data.preview import Segment, segments, shortened
from lorabundle.model import prompts
from tests.conftest import ask


def test_segments_begin_and_end_where_labels_do(tokenizer):
    record = ask("hello", "there")
    record["completion"] += [{"role": "user", "content": "what"}, {"role": "assistant", "content": "it"}]
    row = prompts.encode(tokenizer, record["prompt"], record["completion"])
    found = segments(tokenizer, row["input_ids"], row["labels"])
    assert [(segment.text.split()[-2:], segment.learnt) for segment in found] == [
        (["<|im_start|>", "assistant"], False),
        (["there", "<|im_end|>"], True),
        (["<|im_start|>", "assistant"], False),
        (["it", "<|im_end|>"], True),
    ]


def test_long_segments_lose_their_middle():
    parts = [Segment("short", False), Segment("a" * 50 + "b" * 50, True)]
    short, long = shortened(parts, 20)
    assert short == Segment("short", False)
    assert long == Segment(f"{'a' * 10} … (80 characters not shown) … {'b' * 10}", True)
