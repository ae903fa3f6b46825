"""Which of many texts are equal or near, without comparing every pair.

Texts are compared normalised (Unicode NFKC, case folded, white space collapsed) and, for nearness, as sets of shingles: three
tokens in a row, of words, single characters of scripts that put no spaces between words, and punctuation marks. Two texts
are near if the Jaccard similarity of their shingle sets reaches the threshold. Candidates come from MinHash signatures and
locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3). Where a template that many texts
share makes thousands of them collide, they come from the texts' rarest shingles instead (prefix and positional filtering,
Xiao et al. 2008, "Efficient similarity joins for near duplicate detection"). Each candidate is then confirmed by its shingles.
Of a text only hashes of its shingles are held, 8 bytes each, so that memory hardly grows with the data.
"""

import math
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha1

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


def hashed(shingle_set: Iterable[str]) -> np.ndarray:
    """A set of shingles as a sorted array of 64-bit hashes, of which a million differ but for one chance in 10^7."""
    digests = b"".join(sha1(shingle.encode()).digest()[:8] for shingle in shingle_set)
    return np.sort(np.frombuffer(digests, dtype="<u8"))


def jaccard(one: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Size of the intersection over size of the union, of one set with each of others; sets as `hashed` gives them, not empty."""
    sizes, members = np.array(list(map(len, others))), np.concatenate(others)
    places = np.searchsorted(one, members).clip(max=len(one) - 1)
    common = np.add.reduceat(one[places] == members, np.cumsum(sizes) - sizes, dtype=np.int64)
    return common / (len(one) + sizes - common)


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band) of the signature: the fewest candidates that overlook at most `MISSED` of the pairs at the threshold.

    A pair of similarity s shares at least one band with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED:
            return PERMUTATIONS // rows, rows
    return PERMUTATIONS, 1


def near_pairs(sets: list[np.ndarray], threshold: float) -> list[Pair]:
    """(earlier index, later index, similarity) of the pairs of sets whose similarity is at least `threshold`.

    A set that has `CROWD` near ones before it is compared with those, but not with later ones, so that a large cluster
    costs time in proportion to its size. A threshold of 1.0 asks for equal texts alone, of which there are none here.

    Args:
        sets: shingles of distinct texts, as `hashed` gives them.
        threshold: above 0.
    """
    if threshold >= 1 or len(sets) < 2:
        return []
    shared = _shared_bands(sets, threshold)
    members: dict[int, list[int]] = defaultdict(list)
    open_to_all: list[int] = []  # those that later ones are compared with
    rare: _RarestShingles | None = None
    pairs = []
    for later, bands_of_later in enumerate(shared):
        collisions = sum(len(members[band]) for band in bands_of_later)
        if collisions <= COLLISIONS:
            candidates = set().union(*(members[band] for band in bands_of_later))
        else:
            if rare is None:
                rare = _RarestShingles(sets, threshold)
                for earlier in open_to_all:
                    rare.insert(earlier)
            candidates = rare.candidates(later)
        found = []
        if candidates:
            ranked = sorted(candidates)
            similarities = jaccard(sets[later], [sets[earlier] for earlier in ranked]).tolist()
            found = [(earlier, later, s) for earlier, s in zip(ranked, similarities, strict=True) if s >= threshold]
        pairs += found
        if len(found) < CROWD:
            open_to_all.append(later)
            if rare is not None:
                rare.insert(later)
            for band in bands_of_later:
                members[band].append(later)
    return pairs


def _shared_bands(sets: list[np.ndarray], threshold: float) -> list[list[int]]:
    """For each set, the bands of its MinHash signature that another set has too, by numbers that stand for their values.

    Two sets that share no band are never candidates, and most sets share none: only their hashes are ever held.
    """
    count, size = bands(threshold)
    low = ((members & np.uint64(0xFFFF_FFFF)).tolist() for members in sets)  # datasketch takes 32 bits of sha1 too
    factors = np.random.default_rng(SEED).integers(0, 2**64, size, dtype=np.uint64) | np.uint64(1)
    values = np.empty((len(sets), count), dtype=np.uint64)
    signatures = MinHash.generator(low, num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
    for index, signature in enumerate(signatures):
        values[index] = signature.hashvalues[: count * size].reshape(count, size) @ factors
    shared: list[list[int]] = [[] for _ in sets]
    number = 0
    for band in range(count):
        order = np.argsort(values[:, band], kind="stable")
        ranked = values[order, band]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        ends = np.append(starts[1:], len(ranked))
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            for index in order[start:end]:
                shared[index].append(number)
            number += 1
    return shared


class _RarestShingles:
    """Index of sets by their rarest members: sets of a similarity of at least `threshold` share one of these.

    With members from rare to frequent, two sets x and y that have at least `needed` in common share one among the first
    |x| - ceil(threshold |x|) + 1 of x (prefix filter), and no more than one and what follows it in both (positional filter).
    """

    def __init__(self, sets: list[np.ndarray], threshold: float):
        self.sets, self.threshold = sets, threshold
        self.members, self.frequency = np.unique(np.concatenate(sets), return_counts=True)
        self.sizes = np.array([len(members) for members in sets])
        self.postings: dict[int, tuple[array, array]] = defaultdict(lambda: (array("q"), array("q")))  # sets, places

    def _prefix(self, index: int) -> list[int]:
        members = self.sets[index]
        frequency = self.frequency[np.searchsorted(self.members, members)]
        # the threshold as a float may be a hair above the fraction meant: never shorten the prefix by it
        length = len(members) - math.ceil(self.threshold * len(members) - 1e-9) + 1
        return members[np.lexsort((members, frequency))][:length].tolist()

    def insert(self, index: int) -> None:
        for place, member in enumerate(self._prefix(index)):
            owners, places = self.postings[member]
            owners.append(index)
            places.append(place)

    def candidates(self, index: int) -> set[int]:
        """Sets inserted before that can reach the threshold with this one."""
        found: set[int] = set()
        size = len(self.sets[index])
        for place, member in enumerate(self._prefix(index)):
            if member in self.postings:
                owners, places = (np.array(values) for values in self.postings[member])
                sizes = self.sizes[owners]
                needed = self.threshold / (1 + self.threshold) * (size + sizes) - 1e-9
                possible = np.minimum(size - place, sizes - places)
                # members before this one may be shared too, but then the set is found through the first of them
                found.update(owners[possible >= needed].tolist())
        return found
