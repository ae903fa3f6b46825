"""The data card, on the hand-made manifest."""

import pytest

from lorabundle.core.strict_json import Fields
from lorabundle.reporting.data_card import (
    data_card,
    duplicates,
    hashes_table,
    kinds_table,
    lengths_table,
    rows_table,
    source_table,
    split_sentence,
    splits_table,
)
from lorabundle.reporting.page import Code, Paragraph, Table
from tests import fake_run
from tests.unit.reporting.plain_text import cells, plain


@pytest.fixture
def manifest():
    return fake_run.manifest()


def test_what_became_of_the_rows(manifest):
    assert cells(rows_table(Fields(manifest, "manifest.json"))) == [
        ["Read", "20"],
        ["Quarantined as faulty, in outputs/smoke/quarantine.jsonl", "2"],
        ["of these: empty_completion", "2"],
        ["Dropped: exact duplicate", "3"],
        ["Dropped: near duplicate", "1"],
        ["Dropped: over split limit", "2"],
        ["Note: column url not used", "9"],
        ["In the splits", "12"],
    ]


def test_nothing_quarantined_names_no_file(manifest):
    manifest["quarantined"] = {"rows": 0, "causes": {}, "file": None}
    assert ["Quarantined as faulty", "0"] in cells(rows_table(Fields(manifest, "manifest.json")))


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ([], "No group is in two splits."),
        (["train", "test"], "says which rows are train and test; they were kept so. Val was cut from train by groups"),
        (["train", "val", "test"], "says which rows are train and val and test; they were kept so. Training rows that"),
    ],
)
def test_how_rows_came_into_their_splits(manifest, own, says):
    manifest["own_splits"] = own
    assert says in split_sentence(Fields(manifest, "manifest.json"))


def test_unknown_licences_are_called_unknown(manifest):
    manifest["licences"] = {}
    table = cells(source_table(Fields(manifest, "manifest.json")))
    assert table[1] == ["File", "data/mine.jsonl: one JSON value a line, UTF-8"]
    assert table[2] == ["Format", "jsonl, shape alpaca; columns: prompt from instruction; completion from output"]
    assert table[3] == ["Licences", "unknown: the data states none"]


def test_lengths(manifest):
    rows = cells(lengths_table(Fields(manifest, "manifest.json").part("lengths")))
    assert rows[2] == ["test", "2", "12.5", "19.5", "20", "2", "8", "19.5", "20"]


def duplicate_blocks(manifest: dict) -> list:
    return duplicates(Fields(manifest, "manifest.json").part("duplicates"))


def test_remaining_pairs_are_named(manifest):
    counts, warning, named = duplicate_blocks(manifest)
    assert cells(counts) == [
        ["Before: among all records", "5", "7", "6", "0"],
        ["After: within one split", "0", "1", "2", "0"],
        ["After: across two splits", "0", "1", "0", "0"],
    ]
    assert plain(warning.line).startswith("Warning: 1 pair of equal or near texts is in two splits")
    assert cells(named) == [["prompt", "e1 (test)", "t7 (train)", "0.93"]]


def test_pairs_beyond_those_named_are_counted(manifest):
    manifest["duplicates"]["after"]["across"]["completion"] = {"exact": 20, "near": 3}
    _, warning, named = duplicate_blocks(manifest)
    assert "24 pairs of equal or near texts are in" in plain(warning.line)
    assert named.caption == "Pairs that are in two splits (1 of 24)"


def test_answers_that_recur_are_told_from_questions_that_do(manifest):
    across = manifest["duplicates"]["after"]["across"]
    across["completion"] = {"exact": 23, "near": 0}
    assert "All of them are completions" not in plain(duplicate_blocks(manifest)[1].line)
    across["prompt"] = {"exact": 0, "near": 0}
    assert "23 pairs" in plain(duplicate_blocks(manifest)[1].line)
    assert "All of them are completions" in plain(duplicate_blocks(manifest)[1].line)


def test_no_remaining_pair_is_said_too(manifest):
    manifest["duplicates"] |= {"remaining": []}
    manifest["duplicates"]["after"]["across"]["prompt"]["near"] = 0
    _, sentence = duplicate_blocks(manifest)
    assert sentence.line == "No pair of equal or near texts is in two splits."


def test_names_from_files_are_code(manifest):
    manifest["splits"]["train"]["kinds"] = {"*bold*": 4}
    table = kinds_table(Fields(manifest, "manifest.json").part("splits"))
    assert [row[0] for row in table.rows] == [Code("*bold*"), Code("sum"), Code("word")]
    assert cells(table)[0] == ["*bold*", "4", "0", "0"]


def test_sizes_of_the_splits(manifest):
    """Examples, groups, tokens, response tokens, and how many were cut at the length limit."""
    assert cells(splits_table(Fields(manifest, "manifest.json"))) == [
        ["train", "4", "4", "80", "40", "1"],
        ["val", "4", "4", "80", "40", "0"],
        ["test", "4", "4", "80", "40", "0"],
    ]


def test_hashes_of_all_that_identifies_the_data(manifest):
    rows = dict(cells(hashes_table(Fields(manifest, "manifest.json"))))
    assert rows["data/mine.jsonl"] == "a" * 64
    assert (rows["tokenizer"], rows["template"]) == ("b" * 64, "c" * 64)
    assert [rows[f"{name} split"][0] for name in ("train", "val", "test")] == ["1", "2", "3"]


def test_all_tables_are_on_the_card(manifest):
    blocks = data_card(Fields(manifest, "manifest.json"))
    assert [block.caption.split(" (")[0].split(",")[0] for block in blocks if isinstance(block, Table)] == [
        "Source",
        "What became of the rows",
        "Splits",
        "Examples by kind and split",
        "Lengths in tokens",
        "Pairs of texts that are equal",
        "Pairs that are in two splits",
        "Hashes",
    ]
    assert Paragraph("Rows with equal or similar texts form a group. No group is in two splits.") in blocks
