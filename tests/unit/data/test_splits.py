"""Which rows are for training, validation and test: by group, or as the user's data says."""

from hashlib import sha256

import pytest

from lorabundle.core.config import Data
from lorabundle.core.errors import EmptySplitError
from lorabundle.data.splits import assign_splits, limited, own_splits
from tests.conftest import ask


def settings(**changes) -> Data:
    values = {
        "source": "x.jsonl",
        "on_error": "stop",
        "near_duplicate_threshold": 0.8,
        "max_length": 64,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "max_train_examples": 1000,
        "max_val_examples": 1000,
        "max_test_examples": 1000,
    }
    return Data(**(values | changes))


def many(count: int, per_group: int = 3) -> list[dict]:
    return [ask(f"question {n}", "answer", group=f"group {n // per_group}") for n in range(count)]


def split(records: list[dict], settings: Data) -> dict[str, list[dict]]:
    groups = {index: record["group"] for index, record in enumerate(records)}
    stated = [record.get("split", "") for record in records]
    assigned = assign_splits([record["id"] for record in records], stated, groups, settings, {})
    kept, _ = limited(assigned, own_splits(stated), settings)
    return {name: [records[index] for index in indices] for name, indices in kept.items()}


def test_no_group_is_in_two_splits():
    splits = split(many(600), settings())
    groups = [{record["group"] for record in rows} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 200
    assert sum(map(len, splits.values())) == 600


def test_split_sizes_follow_the_fractions():
    splits = split(many(3000, per_group=1), settings(val_fraction=0.1, test_fraction=0.3))
    assert len(splits["val"]) == pytest.approx(300, abs=50)
    assert len(splits["test"]) == pytest.approx(900, abs=80)


def test_adding_data_moves_nothing_between_splits():
    few = split(many(300), settings())
    more = split(many(600), settings())
    for name, rows in few.items():
        assert {row["id"] for row in rows} <= {row["id"] for row in more[name]}


def test_order_of_the_input_does_not_matter():
    assert split(many(300), settings()) == split(many(300)[::-1], settings())


def test_limits_are_applied_per_split():
    splits = split(many(300), settings(max_train_examples=7, max_val_examples=5, max_test_examples=3))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7, "val": 5, "test": 3}


def test_dropped_rows_are_in_no_split():
    records = many(300)
    groups = {index: record["group"] for index, record in enumerate(records) if index % 2}
    assigned = assign_splits([record["id"] for record in records], [""] * 300, groups, settings(), {})
    assert sorted(index for indices in assigned.values() for index in indices) == list(range(1, 300, 2))


def test_limited_split_keeps_the_rows_with_the_smallest_hashes():
    """Not the first of the file, which may be sorted."""
    records = many(300)
    everything = split(records, settings())
    limited = split(records, settings(max_train_examples=5))["train"]
    by_hash = sorted(everything["train"], key=lambda record: sha256(record["id"].encode()).digest())
    assert limited == by_hash[:5]
    assert limited != [record for record in records if record in everything["train"]][:5]


@pytest.mark.parametrize(
    ("count", "lost", "says"),
    [
        (1, {}, ["split is empty. Of 1 rows, 1 is left, in 1 groups, the largest with 1 rows", "rows"]),
        (0, {"near_duplicate": 3}, ["The train split is empty. Of 3 rows, 0 are left (3 near duplicate left out)"]),
        (
            4,
            {"exact_duplicate": 0, "near_duplicate": 200},
            ["Of 204 rows, 4 are left (200 near duplicate left out)", "4 rows", "threshold"],
        ),
    ],
)
def test_an_empty_split_says_where_the_rows_went(count, lost, says):
    records = many(count, per_group=9)
    groups = {index: record["group"] for index, record in enumerate(records)}
    with pytest.raises(EmptySplitError) as caught:
        assign_splits([record["id"] for record in records], [""] * count, groups, settings(), lost)
    assert all(text in str(caught.value) for text in says), caught.value


def stated(split: str, rows: list[dict]) -> list[dict]:
    return [row | {"split": split} for row in rows]


def test_own_splits_are_kept_and_missing_ones_cut_from_train():
    records = many(300)
    own = [*stated("train", records[:200]), *stated("test", records[200:])]
    splits = split(own, settings())
    assert {row["id"] for row in splits["test"]} == {row["id"] for row in records[200:]}
    assert len(splits["train"]) + len(splits["val"]) == 200
    assert len(splits["val"]) == pytest.approx(40, abs=25)
    assert not {row["group"] for row in splits["train"]} & {row["group"] for row in splits["val"]}


def test_all_three_own_splits_are_kept_as_they_are():
    records = many(90)
    own = [*stated("train", records[:30]), *stated("val", records[30:60]), *stated("test", records[60:])]
    assert [len(rows) for rows in split(own, settings()).values()] == [30, 30, 30]


def test_rows_without_a_split_are_training_rows_where_others_have_one():
    records = many(60)
    splits = split([*records[:40], *stated("val", records[40:50]), *stated("test", records[50:])], settings())
    assert {row["id"] for row in splits["train"]} == {row["id"] for row in records[:40]}


def test_a_limit_that_shortens_an_own_split_is_a_warning():
    assigned = {"train": [*range(9)], "val": [9], "test": [*range(10, 16)]}
    kept, warnings = limited(assigned, ["train", "test"], settings(max_train_examples=3, max_test_examples=4))
    assert {name: len(indices) for name, indices in kept.items()} == {"train": 3, "val": 1, "test": 4}
    assert warnings == ["Your test split has 6 rows, and data.max_test_examples keeps 4 of them. Raise it to use more."]
