"""Which of many texts are equal or near, without comparing every pair.

Texts are compared normalised (Unicode NFKC, case folded, white space collapsed) and, for nearness, as sets of shingles: three
tokens in a row, of words, single characters of scripts that put no spaces between words, and punctuation marks. Two texts
are near if the Jaccard similarity of their shingle sets reaches the threshold. Candidates come from MinHash signatures and
locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3). Where a template that many texts
share makes thousands of them collide, they come from the texts' rarest shingles instead (prefix and positional filtering,
Xiao et al. 2008, "Efficient similarity joins for near duplicate detection"). Each candidate is then confirmed exactly.
"""

import math
import re
import unicodedata
from array import array
from collections import Counter, defaultdict

import numpy as np
from datasketch import MinHash

PERMUTATIONS = 128
SEED = 1  # of the permutations: any fixed number
MISSED = 1e-3  # largest share of pairs right at the threshold that hashing may overlook; above it the share falls fast
SHINGLE = 3
COLLISIONS = 1000  # a text that shares its bands with more than these is looked up by its rarest shingles
CROWD = 100  # a text with so many near ones is not itself searched for: else n copies of one text cost n * n / 2 comparisons

# Han, kana, Hangul, Thai, Lao, Myanmar, Khmer
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")

Pair = tuple[int, int, float]


def normalise(text: str) -> str:
    """A text without the differences that do not count: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """Each `SHINGLE` tokens in a row of a normalised text; all of them if there are fewer."""
    tokens = TOKEN.findall(text)
    return frozenset(" ".join(tokens[start : start + SHINGLE]) for start in range(max(1, len(tokens) - SHINGLE + 1)))


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
    signatures = MinHash.bulk(
        ([shingle.encode() for shingle in shingle_set] for shingle_set in sets), num_perm=PERMUTATIONS, seed=SEED
    )
    count, size = bands(threshold)
    tables: list[dict[bytes, list[int]]] = [{} for _ in range(count)]
    rare = _RarestShingles(sets, threshold)
    pairs = []
    for later, signature in enumerate(signatures):
        keys = [signature.hashvalues[start : start + size].tobytes() for start in range(0, count * size, size)]
        buckets = [table.setdefault(key, []) for table, key in zip(tables, keys, strict=True)]
        collisions = sum(map(len, buckets))
        found = [
            (earlier, later, similarity)
            for earlier in sorted(set().union(*buckets) if collisions <= COLLISIONS else rare.candidates(later))
            if (similarity := jaccard(sets[earlier], sets[later])) >= threshold
        ]
        pairs += found
        if len(found) < CROWD:
            rare.insert(later)
            for bucket in buckets:
                bucket.append(later)
    return pairs


class _RarestShingles:
    """Index of sets by their rarest members: sets of a similarity of at least `threshold` share one of these.

    With members from rare to frequent, two sets x and y that have at least `needed` in common share one among the first
    |x| - ceil(threshold |x|) + 1 of x (prefix filter), and no more than one and what follows it in both (positional filter).
    """

    def __init__(self, sets: list[frozenset[str]], threshold: float):
        frequency = Counter(member for members in sets for member in members)
        self.ranked = [sorted(members, key=lambda member: (frequency[member], member)) for members in sets]
        self.sizes = np.array([len(members) for members in sets])
        self.threshold = threshold
        self.postings: dict[str, tuple[array, array]] = defaultdict(lambda: (array("q"), array("q")))  # sets, places

    def _prefix(self, index: int) -> list[str]:
        size = len(self.ranked[index])
        # the threshold as a float may be a hair above the fraction meant: never shorten the prefix by it
        return self.ranked[index][: size - math.ceil(self.threshold * size - 1e-9) + 1]

    def insert(self, index: int) -> None:
        for place, member in enumerate(self._prefix(index)):
            owners, places = self.postings[member]
            owners.append(index)
            places.append(place)

    def candidates(self, index: int) -> set[int]:
        """Sets inserted before that can reach the threshold with this one."""
        found: set[int] = set()
        size = len(self.ranked[index])
        for place, member in enumerate(self._prefix(index)):
            if member in self.postings:
                owners, places = (np.array(values) for values in self.postings[member])
                sizes = self.sizes[owners]
                needed = self.threshold / (1 + self.threshold) * (size + sizes) - 1e-9
                possible = np.minimum(size - place, sizes - places)
                # members before this one may be shared too, but then the set is found through the first of them
                found.update(owners[possible >= needed].tolist())
        return found
