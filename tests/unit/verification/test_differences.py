"""Which values may differ, and by how much."""

import copy

import pytest

from lorabundle.evaluation.metrics import Tolerance
from lorabundle.evaluation.tolerances import TOLERANCES, allowed
from lorabundle.verification.differences import compare, compare_examples, compare_metrics, measured
from tests.fake_run import examples, metrics
from tests.fake_submission import lines


def test_equal_values_have_no_difference():
    assert compare("a", {"b": [1, 2.5, None, "x"]}, {"b": [1, 2.5, None, "x"]}) == []


@pytest.mark.parametrize(
    ("expected", "found", "line"),
    [
        ({"b": 1}, {"b": 2}, "a.b: expected 1, found 2, tolerance none"),
        ({"b": 1}, {}, "a.b: expected 1, found nothing, tolerance none"),
        ({}, {"b": 1}, "a.b: expected nothing, found 1, tolerance none"),
        ([1, 2], [1, 3], "a.1: expected 2, found 3, tolerance none"),
        ([1], [1, 2], "a: expected [1], found [1, 2], tolerance none"),
        (None, 0, "a: expected None, found 0, tolerance none"),
        ("x", "y", "a: expected x, found y, tolerance none"),
    ],
)
def test_each_difference_says_where_expected_and_found(expected, found, line):
    assert lines(compare("a", expected, found)) == [line]


def test_relative_tolerance_is_of_the_number():
    assert compare("a", 1000.0, 1000.0 + 9e-7, relative=1e-9) == []
    assert lines(compare("a", 1000.0, 1001.0, relative=1e-9)) == [
        "a: expected 1000.0, found 1001.0, tolerance 1e-09 of the value"
    ]


def test_small_p_values_are_told_apart():
    assert compare("sign_test", {"p_value": 1e-60}, {"p_value": 1e-60 * (1 + 1e-12)}, relative=1e-9) == []
    assert len(compare("sign_test", {"p_value": 1e-60}, {"p_value": 1e-300}, relative=1e-9)) == 1


def test_examples_may_differ_in_answers_and_a_little_in_loss(monkeypatch):
    """Over 10 tokens by twice the root of 10 times what was measured: 0.6325."""
    monkeypatch.setattr("lorabundle.evaluation.tolerances.NATS", 0.1)
    found = examples()
    found[0]["base"] |= {"text": "another", "rougeL": 0.5, "nats": 20.63}
    assert compare_examples(examples(), found, trained=False) == []
    found[0]["base"]["nats"] = 20.64
    assert lines(compare_examples(examples(), found, trained=False)) == [
        "examples.jsonl, e1.base.nats: expected 20.0, found 20.64, tolerance 0.6325"
    ]


@pytest.mark.parametrize("key", ["id", "group", "kind", "prompt", "reference", "tokens"])
def test_examples_are_those_of_the_split(key):
    found = examples()
    found[1][key] = "another"
    (difference,) = compare_examples(examples(), found, trained=False)
    assert difference.where == f"examples.jsonl.1.{key}"
    assert len(compare_examples(examples(), examples()[:3], trained=False)) == 1


def test_examples_of_an_adapter_trained_again_are_not_compared_one_by_one():
    found = examples()
    found[0]["finetuned"]["nats"] += 100.0
    assert len(compare_examples(examples(), found, trained=False)) == 1
    assert compare_examples(examples(), found, trained=True) == []
    found[0]["base"]["nats"] += 100.0
    (difference,) = compare_examples(examples(), found, trained=True)
    assert difference.where == "examples.jsonl, e1.base.nats"


@pytest.fixture
def tolerance(monkeypatch) -> float:
    """0.02, the tolerance of a loss over the 40 test tokens: twice that of 160, for which the table is made here."""
    monkeypatch.setattr("lorabundle.evaluation.tolerances.SIZES", {"examples": 16, "tokens": 160})
    monkeypatch.setitem(TOLERANCES, "loss", Tolerance(0.005, 0.015))
    return 0.02


def test_measured_values_may_differ_by_their_tolerance(tolerance):
    found = copy.deepcopy(metrics())
    found["models"]["base"]["loss"] += 0.9 * tolerance
    found["delta"]["loss"]["ci95"][0] -= 0.9 * tolerance
    assert compare_metrics(metrics(), found, trained=False) == []
    found["models"]["base"]["loss"] += 0.2 * tolerance
    (difference,) = compare_metrics(metrics(), found, trained=False)
    assert difference.where == "metrics.json.models.base.loss"
    assert difference.tolerance == "0.02"


def test_an_adapter_trained_again_may_differ_by_more_and_the_base_model_may_not(tolerance):
    found = copy.deepcopy(metrics())
    for model in found["models"].values():
        model["loss"] += 2.9 * tolerance
    found["delta"]["loss"]["mean"] += 2.9 * tolerance
    assert len(compare_metrics(metrics(), found, trained=False)) == 3
    (difference,) = compare_metrics(metrics(), found, trained=True)
    assert (difference.where, difference.tolerance) == ("metrics.json.models.base.loss", "0.02")
    found["models"]["finetuned"]["loss"] += 0.2 * tolerance
    assert compare_metrics(metrics(), found, trained=True)[1].tolerance == "0.06"


def test_a_kind_with_a_quarter_of_the_tokens_may_differ_by_twice_as_much(tolerance):
    found = copy.deepcopy(metrics())
    kind = found["kinds"]["sum"]
    assert kind["models"]["base"]["tokens"] == 10
    kind["models"]["base"]["loss"] += 1.9 * tolerance
    kind["delta"]["loss"]["mean"] += 1.9 * tolerance
    assert compare_metrics(metrics(), found, trained=False) == []
    kind["models"]["base"]["loss"] += 0.2 * tolerance
    kind["delta"]["loss"]["mean"] += 0.2 * tolerance
    differences = compare_metrics(metrics(), found, trained=False)
    names = ["models.base.loss", "delta.loss.mean"]
    assert [(d.where, d.tolerance) for d in differences] == [(f"metrics.json.kinds.sum.{n}", "0.04") for n in names]


def test_each_measured_value_knows_what_it_was_taken_over():
    sizes = {value.where: value.sizes for value in measured(metrics(), metrics()) if value.metric}
    assert sizes["metrics.json.models.base.rougeL"] == {"examples": 4, "tokens": 40}
    assert sizes["metrics.json.delta.loss.ci95.1"] == {"examples": 4, "tokens": 40}
    assert sizes["metrics.json.kinds.sum.models.finetuned.loss"] == {"examples": 1, "tokens": 10}
    assert sizes["metrics.json.kinds.sum.delta.loss.mean"] == {"examples": 1, "tokens": 10}


@pytest.mark.parametrize("kind", ["models", "tokens", "base", "models.base.loss", "loss"])
def test_a_kind_may_have_any_name(tolerance, kind):
    expected, found = metrics(), metrics()
    for values in (expected, found):
        values["kinds"][kind] = values["kinds"].pop("sum")
    assert compare_metrics(expected, found, trained=True) == []
    found["kinds"][kind]["models"]["finetuned"]["loss"] += 0.11
    assert compare_metrics(expected, found, trained=True) == []
    found["kinds"][kind]["models"]["finetuned"]["loss"] += 0.02
    (difference,) = compare_metrics(expected, found, trained=True)
    assert (difference.where, difference.tolerance) == (f"metrics.json.kinds.{kind}.models.finetuned.loss", "0.12")


def test_a_mean_over_fewer_may_differ_by_more_and_over_more_by_no_less():
    table = {"examples": 200, "tokens": 7800}
    assert allowed("loss", table, trained=False) == 2 * TOLERANCES["loss"].evaluated
    assert allowed("loss", {"examples": 800, "tokens": 31200}, trained=True) == 2 * TOLERANCES["loss"].trained
    assert allowed("loss", table | {"tokens": 1950}, trained=False) == 4 * TOLERANCES["loss"].evaluated
    assert allowed("rougeL", table | {"examples": 50}, trained=True) == 4 * TOLERANCES["rougeL"].trained
    assert allowed("rougeL", table | {"tokens": 1950}, trained=True) == 2 * TOLERANCES["rougeL"].trained


def test_training_again_allows_no_less_than_evaluating_again():
    assert all(0 < apart.evaluated <= apart.trained for apart in TOLERANCES.values())


def test_what_follows_from_other_values_is_skipped():
    found = copy.deepcopy(metrics())
    found["models"]["base"]["perplexity"] = found["sign_test"]["p_value"] = 0.123
    assert compare_metrics(metrics(), found, trained=False) == []


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
    assert len(compare_metrics(metrics(), found, trained=False)) == 1
