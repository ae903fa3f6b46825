"""Which of many texts are near each other, without comparing every pair.

Texts are normalised first (Unicode NFKC, case folded, white space collapsed). Each becomes a set of shingles: three tokens in a
row. A token is a word, a punctuation mark, or one character of a script that puts no spaces between words. Two texts are near
if the Jaccard similarity of their shingle sets reaches the threshold.

Candidates come from MinHash signatures and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive
Datasets, ch. 3). If many texts share a template, thousands of them collide; then candidates come from the texts' rarest
shingles (prefix and positional filtering, Xiao et al. 2008, "Efficient similarity joins for near duplicate detection"). For
each candidate, the exact similarity of the shingle sets decides. Only hashes of the shingles are in memory, 8 bytes each.

What many texts have in common, such as a long instruction before each message, says nothing about whether two of them are alike:
it is left out of the sets.
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
MISSED = 1e-3  # largest share of the pairs exactly at the threshold that may be missed; of closer pairs it is far less
SHINGLE = 3  # tokens
COLLISIONS = 1000  # a text that shares bands with more texts than this is looked up by its rarest shingles
# A shingle in more texts than this, and in more than this share of them, is frequent. With five instruction templates in equal parts,
# each has 20 % of the texts; 5 % leaves room for more. Up to ten near copies of one text are never taken for a template.
FREQUENT_TEXTS, FREQUENT_PART = 10, 0.05
# So many frequent shingles in a text are a template's. With fewer, two texts that differ elsewhere are not near at a threshold of 0.8:
# one other word is three other shingles, and 23 / (23 + 3 + 3) is 0.79.
TEMPLATE = 24
# And so many others are what the template is around: a word in its middle is three. With fewer, the texts are near copies, unless the
# template is long: 240 messages behind an instruction of 100 words may differ in their last word only.
MESSAGE, LONG_TEMPLATE = 3, 48
CROWD = 100  # a text with this many near ones is not compared with later texts, or n copies would cost n * n / 2 comparisons

# Han, kana, Hangul, Thai, Lao, Myanmar, Khmer
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")

Pair = tuple[int, int, float]


def normalise(text: str) -> str:
    """A text in Unicode NFKC, case folded, with each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """Every `SHINGLE` tokens in a row of a normalised text; if it has fewer, all its tokens as one shingle."""
    tokens = TOKEN.findall(text)
    return frozenset(" ".join(tokens[start : start + SHINGLE]) for start in range(max(1, len(tokens) - SHINGLE + 1)))


def hashed(shingle_set: Iterable[str]) -> np.ndarray:
    """A set of shingles as a sorted array of 64-bit hashes. A million shingles have equal ones in less than 1 of 10^7 cases."""
    digests = b"".join(sha1(shingle.encode()).digest()[:8] for shingle in shingle_set)
    return np.sort(np.frombuffer(digests, dtype="<u8"))


def frequent_shingles(sets: list[np.ndarray]) -> np.ndarray:
    """The shingles that so many of these sets have that they can be a template's, sorted.

    Args:
        sets: shingles of distinct texts, as `hashed` gives them.
    """
    if not sets:
        return np.array([], dtype="<u8")
    members, frequency = np.unique(np.concatenate(sets), return_counts=True)
    return members[frequency > max(FREQUENT_TEXTS, FREQUENT_PART * len(sets))]


def without_template(shingle_set: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """A set without its frequent shingles, if they are a template around something else. Both are sorted."""
    if not len(frequent):
        return shingle_set
    places = np.searchsorted(frequent, shingle_set).clip(max=len(frequent) - 1)
    is_frequent = frequent[places] == shingle_set
    num_frequent = int(is_frequent.sum())
    num_others = len(shingle_set) - num_frequent
    is_template = num_frequent >= LONG_TEMPLATE or (num_frequent >= TEMPLATE and num_others >= MESSAGE)
    return shingle_set[~is_frequent] if is_template else shingle_set


def jaccard(one: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Jaccard similarity (size of the intersection / size of the union) of one set with each of others.

    All sets are as `hashed` returns them, and not empty.
    """
    sizes, members = np.array(list(map(len, others))), np.concatenate(others)
    places = np.searchsorted(one, members).clip(max=len(one) - 1)
    common = np.add.reduceat(one[places] == members, np.cumsum(sizes) - sizes, dtype=np.int64)
    return common / (len(one) + sizes - common)


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows per band) of the signature. It gives the fewest candidates that miss at most `MISSED` of the pairs at the threshold.

    A pair of similarity s shares at least one band with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED:
            return PERMUTATIONS // rows, rows
    return PERMUTATIONS, 1


def near_pairs(sets: list[np.ndarray], threshold: float) -> list[Pair]:
    """(earlier index, later index, similarity) of the pairs of sets whose similarity is at least `threshold`.

    A set with `CROWD` near ones before it is not compared with later ones, so that the time for a large cluster grows in
    proportion to its size. At a threshold of 1.0 only equal texts are near, and here all texts are different.

    Args:
        sets: shingles of distinct texts, as `hashed` gives them; an empty one is near to none.
        threshold: above 0.
    """
    numbers = [index for index, members in enumerate(sets) if len(members)]
    if threshold >= 1 or len(numbers) < 2:
        return []
    if len(numbers) < len(sets):
        pairs = near_pairs([sets[index] for index in numbers], threshold)
        return [(numbers[earlier], numbers[later], similarity) for earlier, later, similarity in pairs]
    shared = _shared_bands(sets, threshold)
    members: dict[int, list[int]] = defaultdict(list)
    searched: list[int] = []  # sets that later ones are compared with
    rarest: _RarestShingles | None = None
    pairs = []
    for later, bands_of_later in enumerate(shared):
        collisions = sum(len(members[band]) for band in bands_of_later)
        if collisions <= COLLISIONS:
            candidates = set().union(*(members[band] for band in bands_of_later))
        else:
            if rarest is None:
                rarest = _RarestShingles(sets, threshold)
                for earlier in searched:
                    rarest.insert(earlier)
            candidates = rarest.candidates(later)
        found = []
        if candidates:
            ranked = sorted(candidates)
            similarities = jaccard(sets[later], [sets[earlier] for earlier in ranked]).tolist()
            found = [(earlier, later, s) for earlier, s in zip(ranked, similarities, strict=True) if s >= threshold]
        pairs += found
        if len(found) < CROWD:
            searched.append(later)
            if rarest is not None:
                rarest.insert(later)
            for band in bands_of_later:
                members[band].append(later)
    return pairs


def _shared_bands(sets: list[np.ndarray], threshold: float) -> list[list[int]]:
    """For each set, the bands of its MinHash signature that another set has too. A band's values are replaced by one number.

    Two sets that share no band are never candidates. Most sets share none, so that these lists are short.
    """
    num_bands, rows = bands(threshold)
    low = ((members & np.uint64(0xFFFF_FFFF)).tolist() for members in sets)  # datasketch uses 32 bits of a sha1 too
    factors = np.random.default_rng(SEED).integers(0, 2**64, rows, dtype=np.uint64) | np.uint64(1)
    values = np.empty((len(sets), num_bands), dtype=np.uint64)
    signatures = MinHash.generator(low, num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
    for index, signature in enumerate(signatures):
        values[index] = signature.hashvalues[: num_bands * rows].reshape(num_bands, rows) @ factors
    shared: list[list[int]] = [[] for _ in sets]
    number = 0
    for band in range(num_bands):
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
    """Index of sets by their rarest members. Sets with a similarity of at least `threshold` share one of these.

    Sort the members of each set from rare to frequent. If two sets are similar enough, they share a member within
    their prefixes, where the prefix of x is its first |x| - ceil(threshold |x|) + 1 members (prefix filter). From the first
    shared member on, the shorter of the two remainders limits how many can be shared; `needed` is how many must be (positional filter).
    """

    def __init__(self, sets: list[np.ndarray], threshold: float):
        self.sets, self.threshold = sets, threshold
        self.members, self.frequency = np.unique(np.concatenate(sets), return_counts=True)
        self.sizes = np.array([len(members) for members in sets])
        self.postings: dict[int, tuple[array, array]] = defaultdict(lambda: (array("q"), array("q")))  # sets, places

    def _prefix(self, index: int) -> list[int]:
        members = self.sets[index]
        frequency = self.frequency[np.searchsorted(self.members, members)]
        # as a float, the threshold may be slightly too large: this must not make the prefix shorter
        length = len(members) - math.ceil(self.threshold * len(members) - 1e-9) + 1
        return members[np.lexsort((members, frequency))][:length].tolist()

    def insert(self, index: int) -> None:
        for place, member in enumerate(self._prefix(index)):
            owners, places = self.postings[member]
            owners.append(index)
            places.append(place)

    def candidates(self, index: int) -> set[int]:
        """The sets inserted so far whose similarity to this one can reach the threshold."""
        found: set[int] = set()
        size = len(self.sets[index])
        for place, member in enumerate(self._prefix(index)):
            if member in self.postings:
                owners, places = (np.array(values) for values in self.postings[member])
                sizes = self.sizes[owners]
                needed = self.threshold / (1 + self.threshold) * (size + sizes) - 1e-9
                possible = np.minimum(size - place, sizes - places)
                # an earlier member may be shared too, but then that member finds the set
                found.update(owners[possible >= needed].tolist())
        return found
