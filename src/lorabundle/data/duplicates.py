"""Equal and nearly equal rows: dropped, or kept together in one split, and counted.

What is equal or near, `similarity.py` defines. Prompt and completion are compared separately; a system message is part of
neither, since rows often share one.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, combinations, product

import numpy as np

from lorabundle.data.similarity import TOKEN, Pair, hashed, near_pairs, normalise, shingles

LABEL_TOKENS = 8  # a completion of fewer tokens is a label ("yes", "42") that unrelated rows may share
LISTED = 20  # pairs that the manifest names
COLUMNS = ("prompt", "completion")


def text_of(messages: list[dict]) -> str:
    """The normalised text of a prompt or completion, without a system message."""
    return normalise("\n".join(message["content"] for message in messages if message["role"] != "system"))


@dataclass(frozen=True)
class Compared:
    """One column of some records.

    Attributes:
        ids: each record's place among the distinct texts.
        is_long: whether each of these is more than a label.
        near: the near pairs of them.
    """

    ids: array
    is_long: list[bool]
    near: list[Pair]


def compare(records: Iterable[dict], threshold: float) -> dict[str, Compared]:
    """Equal and near texts of each of `COLUMNS`. Goes through the records once and keeps hashes of what they say."""
    places: dict[str, dict[bytes, int]] = {column: {} for column in COLUMNS}
    compared = {column: Compared(array("q"), [], []) for column in COLUMNS}
    sets: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
    for record in records:
        for name, column in compared.items():
            text = text_of(record[name])
            place = places[name].setdefault(_digest(text), len(column.is_long))
            if place == len(column.is_long):
                column.is_long.append(len(TOKEN.findall(text)) >= LABEL_TOKENS)
                if threshold < 1:
                    sets[name].append(hashed(shingles(text)))
            column.ids.append(place)
    for name, column in compared.items():
        column.near.extend(near_pairs(sets.pop(name), threshold))
    return compared


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def count_pairs(column: Compared) -> dict[str, int]:
    """Pairs of records that are equal in a column, and that are near. Counted by arithmetic: n equal ones are n(n - 1)/2 pairs."""
    copies = Counter(column.ids)
    return {
        "exact": sum(count * (count - 1) // 2 for count in copies.values()),
        "near": sum(copies[a] * copies[b] for a, b, _ in column.near),
    }


def clean(
    records: Iterable[dict], threshold: float
) -> tuple[dict[int, str], dict[str, int], dict[str, dict[str, int]]]:
    """Which records to keep, copies left out, and their groups, such that what is alike shares one.

    Args:
        records: gone through twice.
        threshold: of `data.near_duplicate_threshold`.

    Returns:
        Index -> group of the records kept, in order; how many were dropped, by cause; the pairs there were before, by column.
    """
    compared = compare(records, threshold)
    own, systems = zip(*((record["group"], _digest(_system(record))) for record in records), strict=True)
    kept, dropped = _without_copies(systems, compared)
    return _groups(own, kept, compared), dropped, {name: count_pairs(column) for name, column in compared.items()}


def _without_copies(systems: tuple[bytes, ...], compared: dict[str, Compared]) -> tuple[list[int], dict[str, int]]:
    """Indices of the records that are not equal or near, in prompt and completion both, to an earlier one that is kept.

    Args:
        systems: a digest of each record's system message: rows that differ in it are different tasks.
        compared: the columns.
    """
    near = {name: _neighbours(column) for name, column in compared.items()}
    kept: list[int] = []
    seen: set[tuple] = set()
    dropped = {"exact_duplicate": 0, "near_duplicate": 0}
    for index, (system, prompt, completion) in enumerate(
        zip(systems, *(compared[name].ids for name in COLUMNS), strict=True)
    ):
        alike = [prompt, *near["prompt"].get(prompt, ())], [completion, *near["completion"].get(completion, ())]
        if (system, prompt, completion) in seen:
            dropped["exact_duplicate"] += 1
        elif any((system, *pair) in seen for pair in product(*alike)):
            dropped["near_duplicate"] += 1
        else:
            seen.add((system, prompt, completion))
            kept.append(index)
    return kept, dropped


def _system(record: dict) -> str:
    return normalise(" ".join(message["content"] for message in record["prompt"] if message["role"] == "system"))


def _neighbours(column: Compared) -> dict[int, list[int]]:
    """For each text, the texts near it."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    for a, b, _ in column.near:
        neighbours[a].append(b)
        neighbours[b].append(a)
    return neighbours


def _groups(own: tuple[str, ...], kept: list[int], compared: dict[str, Compared]) -> dict[int, str]:
    """Group of each kept record: of one group are those of one own group, and those equal or near in prompt or completion.

    A merged group has the smallest of its members' names. Completions of fewer than `LABEL_TOKENS` tokens join nothing.
    """
    names = sorted({own[index] for index in kept})  # the smallest name is the smallest number
    numbers = {name: number for number, name in enumerate(names)}
    parent = array("q", range(len(names)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(one: int, other: int) -> None:
        one, other = root(one), root(other)
        parent[max(one, other)] = min(one, other)

    for name, column in compared.items():
        joins = [name == "prompt" or is_long for is_long in column.is_long]
        owner = array("q", [-1]) * len(joins)  # of each text, a group that has it
        for index in kept:
            text = column.ids[index]
            if joins[text]:
                if owner[text] < 0:
                    owner[text] = numbers[own[index]]
                join(owner[text], numbers[own[index]])
        for a, b, _ in column.near:
            if min(owner[a], owner[b]) >= 0:
                join(owner[a], owner[b])
    return {index: names[root(numbers[own[index]])] for index in kept}


def left_over(splits: dict[str, Iterable[dict]], threshold: float) -> tuple[dict, list[dict]]:
    """What is alike in the finished splits, looked for anew, short completions included. Goes through each twice.

    Returns:
        Numbers of pairs {"within" or "across" splits: {column: {"exact", "near"}}}, and up to `LISTED` of the pairs that lie in two
        splits, the most similar first, as {"column", "similarity", "a": {"id", "split"}, "b": {"id", "split"}}.
    """
    rows = [(name, record["id"]) for name, records in splits.items() for record in records]
    counts = {"within": {}, "across": {}}
    listed: list[dict] = []
    for name, column in compare(chain.from_iterable(splits.values()), threshold).items():
        members: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # text -> split -> records
        for place, (split, record_id) in zip(column.ids, rows, strict=True):
            members[place][split].append(record_id)
        pairs = count_pairs(column)
        within = {
            "exact": sum(
                len(some) * (len(some) - 1) // 2 for by_split in members.values() for some in by_split.values()
            ),
            "near": sum(
                len(some) * len(members[b].get(split, []))
                for a, b, _ in column.near
                for split, some in members[a].items()
            ),
        }
        counts["within"][name] = within
        counts["across"][name] = {kind: pairs[kind] - within[kind] for kind in pairs}
        for a, b, similarity in [*((place, place, 1.0) for place in members), *column.near]:
            listed += _across(name, similarity, members[a], members[b])
    return counts, sorted(listed, key=lambda pair: -pair["similarity"])[:LISTED]


def _across(column: str, similarity: float, a: dict[str, list[str]], b: dict[str, list[str]]) -> list[dict]:
    """The pairs of splits that two texts (or one, if `a` is `b`) lie in, each shown by its first records."""
    splits = combinations(a, 2) if a is b else ((s, t) for s in a for t in b if s != t)
    return [
        {
            "column": column,
            "similarity": round(similarity, 4),
            "a": {"id": a[s][0], "split": s},
            "b": {"id": b[t][0], "split": t},
        }
        for s, t in splits
    ]
