"""Equal and near texts: what counts as alike, and that the search finds what comparing every pair finds."""

import random

import pytest

from lorabundle.data import similarity

THRESHOLD = 0.8


def words(seed: int, count: int) -> list[str]:
    """Words that no other seed has."""
    letters = random.Random(seed)
    return [f"{''.join(letters.choices('abcdefghij', k=6))}{seed}" for _ in range(count)]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Ｈｅｌｌｏ  World", "hello\n\tworld"),
        ("Straße", "STRASSE"),
        ("ﬁne", "FINE"),
        ("e\u0301", "é"),
        ("a\u00a0b", "a b"),
    ],
)
def test_differences_that_do_not_count(a, b):
    assert similarity.normalise(a) == similarity.normalise(b)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what is this thing", {"what is this", "is this thing"}),
        ("yes", {"yes"}),
        ("", {""}),
        ("2+3", {"2 + 3"}),
        ("a_b(c)", {"a_b ( c", "( c )"}),
        ("你好吗朋友", {"你 好 吗", "好 吗 朋", "吗 朋 友"}),
        ("x 你y", {"x 你 y"}),
        ("สวัสดี".replace("ั", ""), {"ส ว ส", "ว ส ด", "ส ด ี"}),
        ("👍👍", {"👍 👍"}),
    ],
)
def test_shingles(text, expected):
    assert similarity.shingles(text) == expected


def test_operators_tell_texts_apart():
    plus, minus = (similarity.hashed(similarity.shingles(text)) for text in ("2+3", "2-3"))
    assert similarity.jaccard(plus, [minus]) == [0]


def test_jaccard_by_hand():
    one, *others = map(similarity.hashed, ("abcd", "bcde", "d", "xyz", "abcd"))
    assert similarity.jaccard(one, others) == pytest.approx([3 / 5, 1 / 4, 0, 1])


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.99])
def test_hashing_overlooks_at_most_one_pair_in_a_thousand_at_the_threshold(threshold):
    bands, size = similarity.bands(threshold)
    assert bands * size <= similarity.PERMUTATIONS
    assert (1 - threshold**size) ** bands <= 1e-3


@pytest.mark.parametrize("collisions", [10**9, -1], ids=["hashing", "rarest shingles"])
@pytest.mark.parametrize("template", ["", " ".join(f"template{n}" for n in range(40))], ids=["plain", "template"])
def test_near_pairs_are_those_of_comparing_every_pair(monkeypatch, collisions, template):
    """Against the quadratic search, on texts with 0 to 6 of 30 words changed, below a template that they share or not."""
    monkeypatch.setattr(similarity, "COLLISIONS", collisions)
    monkeypatch.setattr(similarity, "CROWD", 10**9)
    texts = []
    for seed in range(40):
        base = words(seed, 30)
        for copy in range(7):
            changed = list(base)
            for place in random.Random(copy).sample(range(30), copy):
                changed[place] = f"other{seed}x{copy}x{place}"
            texts.append(f"{template} {' '.join(changed)}")
    sets = [similarity.shingles(text) for text in texts]
    shares = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for b in range(len(texts)) for a in range(b)}
    expected = {pair: share for pair, share in shares.items() if share >= THRESHOLD}
    found = {(a, b): share for a, b, share in similarity.near_pairs(list(map(similarity.hashed, sets)), THRESHOLD)}
    assert found == expected
    assert len(expected) >= 40


def test_near_pairs_are_the_same_each_time():
    texts = [" ".join(words(seed // 5, 30)[: 30 - seed % 5]) for seed in range(100)]
    sets = [similarity.hashed(similarity.shingles(text)) for text in texts]
    assert similarity.near_pairs(sets, THRESHOLD) == similarity.near_pairs(sets, THRESHOLD) != []
