"""Equal and nearly equal rows: dropped, or kept together in one split, and counted.

`similarity.py` defines what is equal or near. What the user says and what the assistant says are compared separately, over all
turns. System messages are not compared, because rows often share one. Nor does a text that most rows have (a greeting, one
instruction for all) make two of them alike.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, combinations, product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lorabundle.data.similarity import (
    TOKEN,
    Pair,
    frequent_shingles,
    hashed,
    near_pairs,
    normalise,
    shingles,
    without_template,
)

LABEL_TOKENS = 8  # a completion of fewer tokens is a label ("yes", "42") that unrelated rows may share
NUM_LISTED = 20  # pairs that the manifest names
COMMON = 10  # rows: a text that more rows than this, and more than half of all, have in common joins nothing
COLUMNS = ("prompt", "completion")
HELD_OUT = ("val", "test")


def text_of(record: dict, column: str) -> str:
    """The normalised text of what the assistant says in a record ("completion"), or of what it answers to ("prompt")."""
    spoken = [message for message in record["prompt"] + record["completion"] if message["role"] != "system"]
    is_answer = column == "completion"
    return normalise("\n".join(turn["content"] for turn in spoken if (turn["role"] == "assistant") == is_answer))


@dataclass(frozen=True)
class Compared:
    """One column of some records. Equal texts have one number.

    Attributes:
        texts: the number of each record's text.
        is_long: of each text, whether it is longer than a label.
        near: pairs of texts that are near.
        frequent: shingles that many of the texts have (see `similarity.without_template`).
    """

    texts: array
    is_long: list[bool]
    near: list[Pair]
    frequent: np.ndarray

    def tells_apart(self) -> np.ndarray:
        """Of each text, whether few enough records have it that two of these belong together."""
        num_records = np.bincount(np.array(self.texts), minlength=len(self.is_long))
        return num_records <= max(COMMON, len(self.texts) / 2)


def compare(
    records: Iterable[dict], threshold: float, frequent: dict[str, np.ndarray] | None = None
) -> dict[str, Compared]:
    """Equal and near texts of each of `COLUMNS`. Reads the records once, and holds only hashes of their texts.

    Args:
        records: to compare.
        threshold: `data.near_duplicate_threshold`.
        frequent: by column, the shingles of templates; found in these records if it is None.
    """
    numbers: dict[str, dict[bytes, int]] = {name: {} for name in COLUMNS}
    texts: dict[str, array] = {name: array("q") for name in COLUMNS}
    is_long: dict[str, list[bool]] = {name: [] for name in COLUMNS}
    shingle_sets: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for record in records:
        for name in COLUMNS:
            text = text_of(record, name)
            number = numbers[name].setdefault(_digest(text), len(is_long[name]))
            if number == len(is_long[name]):  # a new text
                is_long[name].append(len(TOKEN.findall(text)) >= LABEL_TOKENS)
                if threshold < 1:
                    shingle_sets[name].append(hashed(shingles(text)))
            texts[name].append(number)
    compared = {}
    for name in COLUMNS:
        sets = shingle_sets.pop(name)
        common = frequent_shingles(sets) if frequent is None else frequent[name]
        near = near_pairs([without_template(members, common) for members in sets], threshold)
        compared[name] = Compared(texts[name], is_long[name], near, common)
    return compared


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def count_pairs(column: Compared) -> dict[str, int]:
    """Number of pairs of records that are equal in a column, and that are near in it; n equal texts are n(n - 1)/2 pairs."""
    num_records = Counter(column.texts)
    return {
        "exact": sum(count * (count - 1) // 2 for count in num_records.values()),
        "near": sum(num_records[a] * num_records[b] for a, b, _ in column.near),
    }


@dataclass(frozen=True)
class Deduplicated:
    """Which records to keep, without copies.

    Attributes:
        groups: {index: group} of the kept records, in order; records that are alike have the same group.
        dropped: number of dropped records by cause; "in_test_too": training records alike to one of the user's own test rows.
        pairs: number of equal and of near pairs before, by column.
        frequent: by column, the shingles that many texts have.
    """

    groups: dict[int, str]
    dropped: dict[str, int]
    pairs: dict[str, dict[str, int]]
    frequent: dict[str, np.ndarray]


def deduplicate(records: Iterable[dict], threshold: float) -> Deduplicated:
    """Find copies, and the groups of what is left.

    Rows of the user's own val and test splits (a record's "split") are all kept; a training row that is alike to one is dropped.

    Args:
        records: read twice.
        threshold: `data.near_duplicate_threshold`.
    """
    compared = compare(records, threshold)
    own_groups, systems, splits = zip(
        *((record["group"], _digest(_system(record)), record.get("split", "")) for record in records), strict=True
    )
    kept, dropped = _without_copies(systems, compared, splits)
    for split in HELD_OUT:
        if split in splits:
            leaked = _alike_to(split, kept, compared, splits)
            kept = [index for index in kept if index not in leaked]
            dropped[f"in_{split}_too"] = len(leaked)
    return Deduplicated(
        _groups(own_groups, kept, compared),
        dropped,
        {name: count_pairs(column) for name, column in compared.items()},
        {name: column.frequent for name, column in compared.items()},
    )


def _alike_to(split: str, kept: list[int], compared: dict[str, Compared], splits: tuple[str, ...]) -> set[int]:
    """The kept training records that have a text equal or near to one of a held-out split."""
    leaked: set[int] = set()
    for name, column in compared.items():
        counts = column.tells_apart() & (np.array(column.is_long) | (name == "prompt"))
        held_out = {text for text, of in zip(column.texts, splits, strict=True) if of == split and counts[text]}
        near = {other for a, b, _ in column.near for text, other in ((a, b), (b, a)) if text in held_out}
        alike = held_out | {text for text in near if counts[text]}
        leaked |= {index for index in kept if splits[index] not in HELD_OUT and column.texts[index] in alike}
    return leaked


def _without_copies(
    systems: tuple[bytes, ...], compared: dict[str, Compared], splits: tuple[str, ...]
) -> tuple[list[int], dict[str, int]]:
    """Indices of the records to keep, and the number of dropped ones by cause.

    A record is dropped if an earlier one, which is kept, has an equal or near prompt and an equal or near completion.

    Args:
        systems: a digest of each record's system message: rows with different ones are different tasks.
        compared: the columns.
        splits: the user's own split of each record, or "".
    """
    near = {name: _neighbours(column) for name, column in compared.items()}
    kept: list[int] = []
    seen: set[tuple] = set()
    dropped = {"exact_duplicate": 0, "near_duplicate": 0}
    for index, (system, prompt, completion) in enumerate(
        zip(systems, *(compared[name].texts for name in COLUMNS), strict=True)
    ):
        alike = [prompt, *near["prompt"].get(prompt, ())], [completion, *near["completion"].get(completion, ())]
        if splits[index] in HELD_OUT:
            kept.append(index)
        elif (system, prompt, completion) in seen:
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


def _groups(own_groups: tuple[str, ...], kept: list[int], compared: dict[str, Compared]) -> dict[int, str]:
    """Group of each kept record. Records share a group if their own group, prompt or completion is equal, or one of the texts is near.

    A merged group gets the smallest of its members' names. Completions of fewer than `LABEL_TOKENS` tokens, and texts that most
    records have, join nothing.

    The groups are the connected components of a graph. Its nodes are the own groups and the distinct texts; its edges join
    a record's own group to its texts, and a text to those near it.
    """
    names = sorted({own_groups[index] for index in kept})
    numbers = {name: number for number, name in enumerate(names)}
    own = np.array([numbers[own_groups[index]] for index in kept])
    edges, num_nodes = [], len(names)
    for name, column in compared.items():
        joins = (np.array(column.is_long) | (name == "prompt")) & column.tells_apart()
        edges += _edges(own, np.array(column.texts)[kept], joins, column.near, num_nodes)
        num_nodes += len(joins)
    starts, ends = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(num_nodes, num_nodes))
    _, components = connected_components(graph, directed=False)
    # names are sorted, so the first of a component is its smallest
    _, first, component = np.unique(components[: len(names)], return_index=True, return_inverse=True)
    return {index: names[number] for index, number in zip(kept, first[component[own]], strict=True)}


def _edges(own: np.ndarray, texts: np.ndarray, joins: np.ndarray, near: list[Pair], offset: int) -> list[np.ndarray]:
    """Edges of one column's texts, each an array of two rows: both ends.

    Args:
        own: number of each kept record's own group.
        texts: number of each kept record's text.
        joins: of each text, whether records that have it belong together.
        near: pairs of texts.
        offset: node of the text with number 0.
    """
    joined = joins[texts]
    is_kept = np.zeros(len(joins), dtype=bool)  # a text that only dropped records have joins nothing
    is_kept[texts[joined]] = True
    pairs = np.array([pair[:2] for pair in near], dtype=np.int64).reshape(-1, 2)
    pairs = pairs[is_kept[pairs].all(axis=1)]
    return [np.stack([own[joined], offset + texts[joined]]), offset + pairs.T]


def remaining_pairs(
    splits: dict[str, Iterable[dict]], threshold: float, frequent: dict[str, np.ndarray] | None = None
) -> tuple[dict, list[dict]]:
    """Pairs that are alike in the finished splits, short completions included. Searches again, and reads each split twice.

    Args:
        splits: their records.
        threshold: `data.near_duplicate_threshold`.
        frequent: by column, the shingles that many texts have, as `deduplicate` found them among all records; if None, found in these.

    Returns:
        Numbers of pairs {"within" or "across" splits: {column: {"exact", "near"}}}, and up to `NUM_LISTED` pairs whose records
        are in two splits, the most similar first: {"column", "similarity", "a": {"id", "split"}, "b": {"id", "split"}}.
    """
    records = [(split, record["id"]) for split, rows in splits.items() for record in rows]
    counts: dict[str, dict] = {"within": {}, "across": {}}
    listed: list[dict] = []
    for name, column in compare(chain.from_iterable(splits.values()), threshold, frequent).items():
        ids: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # text -> split -> records' ids
        for text, (split, record_id) in zip(column.texts, records, strict=True):
            ids[text][split].append(record_id)
        pairs, within = count_pairs(column), _pairs_within(column, ids)
        counts["within"][name] = within
        counts["across"][name] = {kind: pairs[kind] - within[kind] for kind in pairs}
        for a, b, similarity in [*((text, text, 1.0) for text in ids), *column.near]:
            listed += _pairs_across(name, similarity, ids[a], ids[b])
    return counts, sorted(listed, key=lambda pair: -pair["similarity"])[:NUM_LISTED]


def _pairs_within(column: Compared, ids: dict[int, dict[str, list[str]]]) -> dict[str, int]:
    """Number of equal and of near pairs of records that are in the same split."""
    num_records = [Counter({split: len(some) for split, some in ids[text].items()}) for text in range(len(ids))]
    return {
        "exact": sum(count * (count - 1) // 2 for by_split in num_records for count in by_split.values()),
        "near": sum(
            count * num_records[b][split] for a, b, _ in column.near for split, count in num_records[a].items()
        ),
    }


def _pairs_across(column: str, similarity: float, a: dict[str, list[str]], b: dict[str, list[str]]) -> list[dict]:
    """One pair of records for each two splits that hold two near texts (or one text, if `a` is `b`): the first records there."""
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
