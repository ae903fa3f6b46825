"""Equal and nearly equal rows: dropped, or kept together in one split, and counted.

Texts are compared normalised (Unicode NFKC, case folded, white space collapsed) and, for nearness, as sets of shingles: three
tokens in a row, of words, single characters of scripts that put no spaces between words, and punctuation marks. Two texts
are near if the Jaccard similarity of their shingle sets reaches the threshold. Candidates come from MinHash signatures and
locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3); each is then confirmed
exactly. Prompt and completion are compared separately; a system message is part of neither, since rows often share one.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 128
SEED = 1  # of the permutations: any fixed number
MISSED = 1e-3  # largest share of pairs right at the threshold that hashing may overlook; above it the share falls fast
SHINGLE = 3
LABEL_TOKENS = 8  # a completion of fewer tokens is a label ("yes", "42") that unrelated rows may share
CROWD = 100  # a text with so many near ones is not itself searched for: else n copies of one text cost n * n / 2 comparisons
LISTED = 20  # pairs that the manifest names
COLUMNS = ("prompt", "completion")

# Han, kana, Hangul, Thai, Lao, Myanmar, Khmer
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")

Pair = tuple[int, int, float]


def normalise(text: str) -> str:
    """A text without the differences that do not count: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_of(messages: list[dict]) -> str:
    """The normalised text of a prompt or completion, without a system message."""
    return normalise("\n".join(message["content"] for message in messages if message["role"] != "system"))


def shingles(text: str) -> frozenset[str]:
    """Each `SHINGLE` tokens in a row of a normalised text; all of them if there are fewer."""
    tokens = TOKEN.findall(text)
    return frozenset(
        " ".join(tokens[start : start + SHINGLE]) for start in range(max(1, len(tokens) - SHINGLE + 1))
    )


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band) of the signature: the fewest candidates that overlook at most `MISSED` of the pairs at the threshold.

    A pair of similarity s shares at least one band with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED:
            return PERMUTATIONS // rows, rows
    return PERMUTATIONS, 1


def near_pairs(texts: list[str], threshold: float) -> list[Pair]:
    """(earlier index, later index, similarity) of the pairs of distinct texts whose similarity is at least `threshold`.

    A text that has `CROWD` near ones before it is compared with those, but not with later texts, so that a large cluster
    costs time in proportion to its size. A threshold of 1.0 asks for equal texts alone, of which there are none here.
    """
    if threshold >= 1 or len(texts) < 2:
        return []
    sets = [shingles(text) for text in texts]
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    pairs = []
    encoded = ([shingle.encode() for shingle in shingle_set] for shingle_set in sets)
    for later, signature in enumerate(MinHash.generator(encoded, num_perm=PERMUTATIONS, seed=SEED)):
        found = [
            (earlier, later, similarity)
            for earlier in sorted(index.query(signature))
            if (similarity := jaccard(sets[earlier], sets[later])) >= threshold
        ]
        pairs += found
        if len(found) < CROWD:
            index.insert(later, signature)
    return pairs
