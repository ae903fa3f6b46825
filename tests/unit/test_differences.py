"""Which values may differ, and by how much."""

import copy

import pytest

from lorabundle.differences import compare, compare_examples, compare_metrics
from lorabundle.tolerances import NATS, TOLERANCES, allowed
from tests.finished import examples, metrics


def lines(differences) -> list[str]:
    return [str(difference) for difference in differences]


def test_equal_values_have_no_difference():
    assert compare("a", {"b": [1, 2.5, None, "x"]}, {"b": [1, 2.5, None, "x"]}) == []


@pytest.mark.parametrize(
    ("expected", "found", "line"),
    [
        ({"b": 1}, {"b": 2}, "a.b: expected 1, found 2, tolerance none: equal"),
        ({"b": 1}, {}, "a.b: expected 1, found nothing, tolerance none: equal"),
        ({}, {"b": 1}, "a.b: expected nothing, found 1, tolerance none: equal"),
        ([1, 2], [1, 3], "a.1: expected 2, found 3, tolerance none: equal"),
        ([1], [1, 2], "a: expected [1], found [1, 2], tolerance none: equal"),
        (None, 0, "a: expected None, found 0, tolerance none: equal"),
        ("x", "y", "a: expected x, found y, tolerance none: equal"),
    ],
)
def test_each_difference_says_where_expected_and_found(expected, found, line):
    assert lines(compare("a", expected, found)) == [line]


def test_relative_tolerance_is_of_the_number():
    assert compare("a", 1000.0, 1000.0 + 9e-7, relative=1e-9) == []
    assert lines(compare("a", 1000.0, 1001.0, relative=1e-9)) == [
        "a: expected 1000.0, found 1001.0, tolerance 1e-09 of it"
    ]


def test_small_p_values_are_told_apart():
    assert compare("sign_test", {"p_value": 1e-60}, {"p_value": 1e-60 * (1 + 1e-12)}, relative=1e-9) == []
    assert len(compare("sign_test", {"p_value": 1e-60}, {"p_value": 1e-300}, relative=1e-9)) == 1


def test_examples_may_differ_in_answers_and_a_little_in_loss():
    """Over 10 tokens by the root of 10 times the table's value."""
    found = examples()
    found[0]["base"] |= {"text": "another", "rougeL": 0.5, "nats": 20.0 + 3.1 * NATS}
    assert compare_examples(examples(), found) == []
    found[0]["base"]["nats"] = 20.0 + 3.2 * NATS
    (line,) = lines(compare_examples(examples(), found))
    assert line.startswith("examples.jsonl, e1.base.nats: expected 20.0, found 22.0")
    assert line.endswith(f"tolerance {NATS * 10**0.5:.4g}")


@pytest.mark.parametrize("key", ["id", "group", "kind", "prompt", "reference", "tokens"])
def test_examples_are_those_of_the_split(key):
    found = examples()
    found[1][key] = "another"
    (difference,) = compare_examples(examples(), found)
    assert difference.where == f"examples.jsonl.1.{key}"
    assert len(compare_examples(examples(), examples()[:3])) == 1


@pytest.fixture
def tolerance(monkeypatch) -> float:
    """0.02, the tolerance of a loss over the four test examples: twice that of 16, for which the table is made here."""
    monkeypatch.setattr("lorabundle.tolerances.EXAMPLES", 16)
    monkeypatch.setitem(TOLERANCES, "loss", 0.01)
    return 0.02


def test_measured_values_may_differ_by_their_tolerance(tolerance):
    found = copy.deepcopy(metrics())
    found["models"]["base"]["loss"] += 0.9 * tolerance
    found["delta"]["loss"]["ci95"][0] -= 0.9 * tolerance
    assert compare_metrics(metrics(), found) == []
    found["models"]["base"]["loss"] += 0.2 * tolerance
    (difference,) = compare_metrics(metrics(), found)
    assert difference.where == "metrics.json.models.base.loss"
    assert difference.tolerance == "0.02"


def test_a_kind_with_a_quarter_of_the_examples_may_differ_by_twice_as_much(tolerance):
    found = copy.deepcopy(metrics())
    kind = found["kinds"]["sum"]
    assert kind["examples"] == 1
    kind["models"]["base"]["loss"] += 1.9 * tolerance
    kind["delta"]["loss"]["mean"] += 1.9 * tolerance
    assert compare_metrics(metrics(), found) == []
    kind["models"]["base"]["loss"] += 0.2 * tolerance
    kind["delta"]["loss"]["mean"] += 0.2 * tolerance
    differences = compare_metrics(metrics(), found)
    names = ["models.base.loss", "delta.loss.mean"]
    assert [(d.where, d.tolerance) for d in differences] == [(f"metrics.json.kinds.sum.{n}", "0.04") for n in names]


def test_a_larger_test_split_has_the_tabled_tolerance():
    assert allowed("loss", 200) == allowed("loss", 800) == TOLERANCES["loss"]


def test_what_follows_from_other_values_is_passed_over():
    found = copy.deepcopy(metrics())
    found["models"]["base"]["perplexity"] = found["sign_test"]["p_value"] = 0.123
    assert compare_metrics(metrics(), found) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["baselines"]["uniform"].update(loss=10.8028),
        lambda m: m["models"]["base"].update(tokens=41),
        lambda m: m["models"]["base"].pop("loss"),
        lambda m: m["models"]["base"].update(loss=None),
        lambda m: m["kinds"].pop("sum"),
        lambda m: m.update(seed=1),
        lambda m: m.update(more=1),
    ],
)
def test_all_else_is_equal(change):
    found = copy.deepcopy(metrics())
    change(found)
    assert len(compare_metrics(metrics(), found)) == 1
