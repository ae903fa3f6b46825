"""Equal and nearly equal rows: dropped, or kept together in one split, and counted.

What is equal or near, `similarity.py` defines. Prompt and completion are compared separately; a system message is part of
neither, since rows often share one.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations

from lorabundle.similarity import TOKEN, Pair, near_pairs, normalise

LABEL_TOKENS = 8  # a completion of fewer tokens is a label ("yes", "42") that unrelated rows may share
LISTED = 20  # pairs that the manifest names
COLUMNS = ("prompt", "completion")


def text_of(messages: list[dict]) -> str:
    """The normalised text of a prompt or completion, without a system message."""
    return normalise("\n".join(message["content"] for message in messages if message["role"] != "system"))


@dataclass(frozen=True)
class Compared:
    """One column of some records: `ids` gives each record's place among the distinct `texts`, `near` the near pairs of these."""

    ids: list[int]
    texts: list[str]
    near: list[Pair]


def compare(records: list[dict], threshold: float) -> dict[str, Compared]:
    """Equal and near texts of each of `COLUMNS`."""
    compared = {}
    for column in COLUMNS:
        places: dict[str, int] = {}
        ids = [places.setdefault(text_of(record[column]), len(places)) for record in records]
        compared[column] = Compared(ids, list(places), near_pairs(list(places), threshold))
    return compared


def count_pairs(column: Compared) -> dict[str, int]:
    """Pairs of records that are equal in a column, and that are near. Counted by arithmetic: n equal ones are n(n - 1)/2 pairs."""
    copies = Counter(column.ids)
    return {
        "exact": sum(count * (count - 1) // 2 for count in copies.values()),
        "near": sum(copies[a] * copies[b] for a, b, _ in column.near),
    }


def clean(records: list[dict], threshold: float) -> tuple[list[dict], dict[str, int], dict[str, dict[str, int]]]:
    """Records without copies, regrouped so that what is alike shares a group.

    Returns:
        The records kept, in order; how many were dropped, by cause; the pairs there were before, by column.
    """
    compared = compare(records, threshold)
    kept, dropped = _without_copies(records, compared)
    groups = _groups(records, kept, compared)
    regrouped = [records[index] | {"group": groups[index]} for index in kept]
    return regrouped, dropped, {name: count_pairs(column) for name, column in compared.items()}


def _without_copies(records: list[dict], compared: dict[str, Compared]) -> tuple[list[int], dict[str, int]]:
    """Indices of the records that are not equal or near, in prompt and completion both, to an earlier one that is kept."""
    near = {name: _neighbours(column) for name, column in compared.items()}
    kept: list[int] = []
    seen: set[tuple] = set()
    dropped = {"exact_duplicate": 0, "near_duplicate": 0}
    for index, ids in enumerate(zip(*(compared[name].ids for name in COLUMNS), strict=True)):
        system = _system(records[index])  # rows that differ in it are different tasks
        if (system, *ids) in seen:
            dropped["exact_duplicate"] += 1
        elif any((system, a, b) in seen for a in near["prompt"][ids[0]] for b in near["completion"][ids[1]]):
            dropped["near_duplicate"] += 1
        else:
            seen.add((system, *ids))
            kept.append(index)
    return kept, dropped


def _system(record: dict) -> str:
    return normalise(" ".join(message["content"] for message in record["prompt"] if message["role"] == "system"))


def _neighbours(column: Compared) -> dict[int, list[int]]:
    """For each text, itself and the texts near it."""
    neighbours = {place: [place] for place in range(len(column.texts))}
    for a, b, _ in column.near:
        neighbours[a].append(b)
        neighbours[b].append(a)
    return neighbours


def _groups(records: list[dict], kept: list[int], compared: dict[str, Compared]) -> dict[int, str]:
    """Group of each kept record: of one group are those of one own group, and those equal or near in prompt or completion.

    A merged group has the smallest of its members' names. Completions of fewer than `LABEL_TOKENS` tokens join nothing.
    """
    parent = {index: index for index in kept}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[tuple[str, str | int], int] = {}  # (what, which) -> the first record that has it

    def join(index: int, key: tuple[str, str | int]) -> None:
        parent[root(index)] = root(first.setdefault(key, index))

    joins = {name: [name == "prompt" or _is_long(text) for text in column.texts] for name, column in compared.items()}
    for index in kept:
        join(index, ("group", records[index]["group"]))
        for name, column in compared.items():
            if joins[name][column.ids[index]]:
                join(index, (name, column.ids[index]))
    for name, column in compared.items():
        for a, b, _ in column.near:
            if (name, a) in first and (name, b) in first:
                join(first[name, a], (name, b))
    names: dict[int, str] = {}
    for index in kept:
        names[root(index)] = min(records[index]["group"], names.get(root(index), records[index]["group"]))
    return {index: names[root(index)] for index in kept}


def _is_long(text: str) -> bool:
    return len(TOKEN.findall(text)) >= LABEL_TOKENS


def left_over(splits: dict[str, list[dict]], threshold: float) -> tuple[dict, list[dict]]:
    """What is alike in the finished splits, looked for anew, short completions included.

    Returns:
        Numbers of pairs {"within" or "across" splits: {column: {"exact", "near"}}}, and up to `LISTED` of the pairs that lie in two
        splits, the most similar first, as {"column", "similarity", "a": {"id", "split"}, "b": {"id", "split"}}.
    """
    rows = [(name, record) for name, records in splits.items() for record in records]
    counts = {"within": {}, "across": {}}
    listed: list[dict] = []
    for name, column in compare([record for _, record in rows], threshold).items():
        members: dict[int, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))  # text -> split -> records
        for place, (split, record) in zip(column.ids, rows, strict=True):
            members[place][split].append(record)
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


def _across(column: str, similarity: float, a: dict[str, list[dict]], b: dict[str, list[dict]]) -> list[dict]:
    """The pairs of splits that two texts (or one, if `a` is `b`) lie in, each shown by its first records."""
    splits = combinations(a, 2) if a is b else ((s, t) for s in a for t in b if s != t)
    return [
        {
            "column": column,
            "similarity": round(similarity, 4),
            "a": {"id": a[s][0]["id"], "split": s},
            "b": {"id": b[t][0]["id"], "split": t},
        }
        for s, t in splits
    ]
