"""A row as the model sees it: the rendered text in segments, each either learnt or not."""

from itertools import groupby
from typing import NamedTuple

from lorabundle.model.prompts import IGNORE_INDEX


class Segment(NamedTuple):
    """A part of a row's text; `learnt`: whether its tokens are labels."""

    text: str
    learnt: bool


def segments(tokenizer, input_ids: list[int], labels: list[int]) -> list[Segment]:
    """The text of a row, cut where what is learnt begins and ends. Special tokens are shown as they are written."""
    tokens = zip(input_ids, labels, strict=True)
    return [
        Segment(tokenizer.decode([token for token, _ in part], clean_up_tokenization_spaces=False), learnt)
        for learnt, part in groupby(tokens, key=lambda token: token[1] != IGNORE_INDEX)
    ]


def shortened(parts: list[Segment], most: int) -> list[Segment]:
    """The same segments, each with at most about `most` characters: the middle of a longer one is left out, and how much is said."""
    short = []
    for text, learnt in parts:
        if len(text) > most:
            left_out = len(text) - most
            text = f"{text[: most // 2]} … ({left_out:,} characters not shown) … {text[len(text) - most // 2 :]}"
        short.append(Segment(text, learnt))
    return short
