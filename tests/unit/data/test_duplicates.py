"""Equal and near rows: what counts as alike, what is dropped, what is kept together, and the numbers, by hand."""

from collections import Counter

import pytest

from lorabundle.data import duplicates, similarity
from lorabundle.data.duplicates import NUM_LISTED, remaining_pairs
from tests.conftest import ask
from tests.unit.data.test_similarity import words
from tests.unit.data.test_splits import settings, split

THRESHOLD = 0.8


def deduplicate(records: list[dict], threshold: float) -> tuple[list[dict], dict, dict]:
    """As `duplicates.deduplicate`, but with the kept records, in their groups."""
    found = duplicates.deduplicate(records, threshold)
    return [records[index] | {"group": group} for index, group in found.groups.items()], found.dropped, found.pairs


def rows(*pairs: tuple[str, str], **extra: str) -> list[dict]:
    return [ask(prompt, completion, id=f"r{n}", group=f"g{n}") | extra for n, (prompt, completion) in enumerate(pairs)]


def test_threshold_of_one_does_no_hashing(monkeypatch):
    monkeypatch.setattr(similarity, "MinHash", None)
    long = " ".join(words(1, 30))
    kept, dropped, before = deduplicate(rows((long, "a"), (long.upper(), "A"), (f"{long} more", "a")), 1.0)
    assert [record["id"] for record in kept] == ["r0", "r2"]
    assert dropped == {"exact_duplicate": 1, "near_duplicate": 0}
    assert before == {"prompt": {"exact": 1, "near": 0}, "completion": {"exact": 3, "near": 0}}


def test_equal_rows_are_dropped_and_the_first_kept():
    kept, dropped, _ = deduplicate(rows(("q", "a"), ("q", "b"), ("Q ", "A")), THRESHOLD)
    assert [record["id"] for record in kept] == ["r0", "r1"]
    assert dropped == {"exact_duplicate": 1, "near_duplicate": 0}


def test_rows_near_in_both_are_dropped_those_near_in_one_are_kept_together():
    p, c, other = (" ".join(words(seed, 30)) for seed in (1, 2, 3))
    kept, dropped, before = deduplicate(
        rows((p, c), (p + " x", c + " y"), (p + " x", other), ("new", c + " y")), THRESHOLD
    )
    assert [record["id"] for record in kept] == ["r0", "r2", "r3"]
    assert dropped == {"exact_duplicate": 0, "near_duplicate": 1}
    assert {record["group"] for record in kept} == {"g0"}
    # prompts: r1 = r2, both near r0; completions: r1 = r3, both near r0
    assert before == {"prompt": {"exact": 1, "near": 2}, "completion": {"exact": 1, "near": 2}}


def test_rows_that_differ_in_the_system_message_are_not_copies():
    system = [{"role": "system", "content": "Answer in French."}]
    first, second = rows(("q", "a"), ("q", "a"))
    kept, dropped, _ = deduplicate([first, second | {"prompt": system + second["prompt"]}], THRESHOLD)
    assert len(kept) == 2
    assert dropped["exact_duplicate"] == 0
    assert kept[0]["group"] == kept[1]["group"]


def test_a_shared_system_message_makes_no_rows_alike():
    system = [{"role": "system", "content": " ".join(words(1, 200))}]
    records = [record | {"prompt": system + record["prompt"]} for record in rows(("q one", "a"), ("q two", "b"))]
    kept, _, before = deduplicate(records, THRESHOLD)
    assert before["prompt"] == {"exact": 0, "near": 0}
    assert len({record["group"] for record in kept}) == 2


def test_groups_merge_through_a_chain_and_take_the_smallest_name():
    a, b = (" ".join(words(seed, 30)) for seed in (1, 2))
    records = rows((a, "yes"), (a + " x", b), ("alone", b + " y"), ("far away", "yes"))
    records[2]["group"] = "a name before g"
    records[3]["group"] = "own"
    kept, _, _ = deduplicate([*records, ask("apart", "no", id="r4", group="own")], THRESHOLD)
    groups = {record["id"]: record["group"] for record in kept}
    assert groups == {
        "r0": "a name before g",
        "r1": "a name before g",
        "r2": "a name before g",
        "r3": "own",
        "r4": "own",
    }


def test_a_text_of_dropped_records_joins_nothing():
    """Near to two prompts that are not near each other, it would join their groups if it were kept."""
    shared = " ".join(words(1, 60))
    one, between, other = f"{shared} {' '.join(words(2, 10))}", f"{shared} x y z", f"{shared} {' '.join(words(3, 10))}"
    records = rows((one, "a"), (between, "a"), (other, "b"))
    groups = {record["id"]: record["group"] for record in deduplicate(records, 0.8)[0]}
    assert groups == {"r0": "g0", "r2": "g2"}


def test_short_answers_join_nothing_long_ones_do():
    seven, eight = "one two three four five six seven", "one two three four five six seven eight"
    for answer, groups in ((seven, 2), (eight, 1)):
        kept, _, _ = deduplicate(rows(("q", answer), ("other", answer)), THRESHOLD)
        assert len({record["group"] for record in kept}) == groups


def test_what_is_left_is_counted_within_and_across_splits():
    long = " ".join(words(1, 30))
    first = rows(("q1", "yes"), ("q2", "yes"), ("q3", "yes"), (long, "a"))
    second = [ask("q4", "Yes", id="t0"), ask("q5", "yes", id="t1"), ask(long + " x", "b", id="t2")]
    third = [ask("q1", "yes", id="v0")]
    counts, listed = remaining_pairs({"train": first, "test": second, "val": third}, THRESHOLD)
    assert counts == {
        # completions "yes": 3 in train, 2 in test, 1 in val: 3 + 1 pairs within, 3 * 2 + 3 * 1 + 2 * 1 across
        "within": {"prompt": {"exact": 0, "near": 0}, "completion": {"exact": 4, "near": 0}},
        "across": {"prompt": {"exact": 1, "near": 1}, "completion": {"exact": 11, "near": 0}},
    }
    assert listed[0] == {
        "column": "prompt",
        "similarity": 1.0,
        "a": {"id": "r0", "split": "train"},
        "b": {"id": "v0", "split": "val"},
    }
    assert [(pair["column"], pair["similarity"]) for pair in listed] == [
        ("prompt", 1.0),
        *[("completion", 1.0)] * 3,
        ("prompt", pytest.approx(28 / 29, abs=1e-4)),
    ]
    assert [pair["id"] for pair in (listed[-1]["a"], listed[-1]["b"])] == ["r3", "t2"]


def test_listed_pairs_are_few():
    many = [ask(f"q{n}", f"label{n}", id=f"a{n}") for n in range(100)]
    counts, listed = remaining_pairs({"train": many, "test": [row | {"id": "b"} for row in many]}, 1.0)
    assert counts["across"]["completion"]["exact"] == 100
    assert len(listed) == NUM_LISTED


def test_ten_thousand_equal_answers_are_counted_not_compared():
    records = [ask(f"question {n}", "the answer is always the very same one", id=str(n)) for n in range(10_000)]
    kept, _, before = deduplicate(records, 1.0)
    counts, _ = remaining_pairs({"train": kept[:9000], "test": kept[9000:]}, 1.0)
    assert before["completion"]["exact"] == 10_000 * 9_999 // 2
    assert counts["across"]["completion"]["exact"] == 9000 * 1000


def copies(originals: int, each: int) -> list[dict]:
    """Originals with `each` copies: some edited in the prompt, some in the answer, some in both, some answers under other prompts."""
    records = []
    for number in range(originals):
        prompt, answer = " ".join(words(2 * number, 30)), " ".join(words(2 * number + 1, 30))
        variants = [(prompt, answer)]
        for copy in range(each):
            extra = f"edit{number}x{copy}"
            variants.append(
                [
                    (f"{prompt} {extra}", answer),
                    (prompt, f"{answer} {extra}"),
                    (f"{prompt} {extra}", f"{extra} {answer}"),
                    (f"{prompt.upper()}", f" {answer}"),
                    (" ".join(words(1_000_000 + 100 * number + copy, 30)), answer),
                ][copy % 5]
            )
        records += [ask(p, a, id=f"{number}-{n}", group=f"{number}-{n}") for n, (p, a) in enumerate(variants)]
    return records


def test_a_dataset_of_97_percent_copies_does_not_flatter():
    """No prompt or answer of the test split may be in training, or the score would measure what was learnt by heart."""
    records = copies(originals=60, each=35)
    assert 1 - 60 / len(records) == pytest.approx(0.97, abs=0.003)
    kept, dropped, before = deduplicate(records, THRESHOLD)
    # Of 35 copies 7 are of each kind. Prompt edited, answer edited, both edited: near in both, dropped. Upper case: equal.
    # Answers under other prompts: kept, in the group of the original.
    assert dropped == {"exact_duplicate": 60 * 7, "near_duplicate": 60 * 21}
    assert len(kept) == 60 * 8
    assert {record["group"] for record in kept} == {f"{number}-0" for number in range(60)}
    # Prompts of one original: 1 + 7 + 7 equal, 7 + 7 edited each in its own way; the other 7 are unlike any.
    # An edit adds 1 of 28 shingles: near each other (28/30) and the original.
    # Answers: 1 + 7 + 7 + 7 equal, 7 + 7 edited; an edit at either end adds 1 shingle too.
    assert before["prompt"] == {"exact": 60 * (15 * 14 // 2), "near": 60 * (15 * 14 + 14 * 13 // 2)}
    assert before["completion"] == {"exact": 60 * (22 * 21 // 2), "near": 60 * (22 * 14 + 14 * 13 // 2)}

    splits = split(kept, settings())
    counts, listed = remaining_pairs(splits, THRESHOLD)
    assert counts["across"] == {"prompt": {"exact": 0, "near": 0}, "completion": {"exact": 0, "near": 0}}
    assert listed == []
    trained = {m["content"].split()[0].casefold() for row in splits["train"] for m in row["prompt"] + row["completion"]}
    for row in splits["test"]:
        assert not {m["content"].split()[0].casefold() for m in row["prompt"] + row["completion"]} & trained
    assert Counter(len(rows) % 8 for rows in splits.values()) == {0: 3}  # whole groups of 8


def test_without_grouping_the_same_dataset_leaks_and_the_check_sees_it():
    records = copies(originals=20, each=35)
    counts, listed = remaining_pairs({"train": records[::2], "test": records[1::2]}, THRESHOLD)
    assert counts["across"]["prompt"]["exact"] > 500
    assert counts["across"]["completion"]["near"] > 500
    assert len(listed) == NUM_LISTED


def test_a_crowd_of_near_texts_is_joined_without_comparing_all(monkeypatch):
    """A text with `CROWD` neighbours is no longer compared with later ones, but all of them get one group."""
    monkeypatch.setattr(similarity, "CROWD", 10)
    base = " ".join(words(1, 30))
    records = rows(*((f"{base} edit{n}", f"label{n}") for n in range(200)))
    kept, _, before = deduplicate(records, THRESHOLD)
    assert {record["group"] for record in kept} == {"g0"}
    assert before["prompt"]["near"] <= 200 * 10


def chats(*turns: tuple[str, ...]) -> list[dict]:
    """Records of several turns, the user's first."""
    records = []
    for number, texts in enumerate(turns):
        messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        records.append({"id": f"r{number}", "group": f"g{number}", "prompt": messages[:1], "completion": messages[1:]})
    return records


def test_all_turns_of_a_conversation_are_compared():
    records = chats(*(("Hello", "Hi!", f"question {n}", f"answer {n}") for n in range(60)))
    kept, dropped, _ = deduplicate(records, THRESHOLD)
    assert dropped == {"exact_duplicate": 0, "near_duplicate": 0}
    assert len({record["group"] for record in kept}) == 60
    kept, dropped, _ = deduplicate([*records, records[0] | {"id": "again"}], THRESHOLD)
    assert dropped["exact_duplicate"] == 1


TEMPLATE = " ".join(words(7, 80))


@pytest.mark.parametrize("form", ["{template} {message}", "{message} {template}", "{template} {message} {template}"])
def test_messages_around_a_template_are_compared_without_it(form):
    texts = [form.format(template=TEMPLATE, message=" ".join(words(100 + n, 30))) for n in range(100)]
    kept, dropped, before = deduplicate(rows(*((text, f"label{n % 3}") for n, text in enumerate(texts))), THRESHOLD)
    assert (dropped["near_duplicate"], before["prompt"]["near"]) == (0, 0)
    assert len({record["group"] for record in kept}) == 100
    near = [*texts, form.format(template=TEMPLATE, message=" ".join([*words(100, 30), "more"]))]
    kept, dropped, before = deduplicate(rows(*((text, f"label{n}") for n, text in enumerate(near))), THRESHOLD)
    assert before["prompt"]["near"] == 1  # thirty words and one more are still near the thirty
    assert len({record["group"] for record in kept}) == 100


def test_short_messages_behind_a_long_template_differ_in_their_last_word_only():
    forms = ["where is my parcel", "box arrived wet", "lost slip", "thank you for number"]
    texts = [f"{TEMPLATE} {forms[n % 4]} {n}" for n in range(240)]
    kept, dropped, _ = deduplicate(rows(*((text, f"label{n % 4}") for n, text in enumerate(texts))), THRESHOLD)
    assert dropped == {"exact_duplicate": 0, "near_duplicate": 0}
    assert len({record["group"] for record in kept}) == 240


def test_several_templates_in_one_dataset():
    templates = [" ".join(words(7 + n, 60)) for n in range(5)]
    texts = [f"{templates[n % 5]} {' '.join(words(100 + n, 10))}" for n in range(200)]
    kept, dropped, _ = deduplicate(rows(*((text, "label") for text in texts)), THRESHOLD)
    assert dropped["near_duplicate"] == 0
    assert len({record["group"] for record in kept}) == 200


def test_a_prompt_that_most_rows_have_joins_nothing():
    records = rows(*(("Write a poem", " ".join(words(n, 20))) for n in range(30)))
    assert len({record["group"] for record in deduplicate(records, THRESHOLD)[0]}) == 30
    few = rows(*(("Write a poem", " ".join(words(n, 20))) for n in range(10)))
    assert len({record["group"] for record in deduplicate(few, THRESHOLD)[0]}) == 1


def test_rows_of_a_held_out_split_are_kept_and_leave_training():
    long = " ".join(words(1, 30))
    train = rows(("a", "1"), ("b", "2"), ("c", long), (long, "4"), ("d", "1"))
    held_out = [
        record | {"id": f"t{n}", "split": "test"}
        for n, record in enumerate(rows(("B", "x"), ("y", f"{long} z"), ("y", f"{long} z")))
    ]
    found = duplicates.deduplicate([*train, *held_out], THRESHOLD)
    assert list(found.groups) == [
        0,
        3,
        4,
        5,
        6,
        7,
    ]  # equal prompt, near answer; a short answer or another column is no copy
    assert found.dropped == {"exact_duplicate": 0, "near_duplicate": 0, "in_test_too": 2}
