"""The guards of the evaluation: a number that cannot be trusted is not written."""

import math

import pytest

from lorabundle import evaluate
from lorabundle.core.errors import AdapterError, ImplausibleLossError
from lorabundle.core.files import hash_paths, write_json
from lorabundle.evaluation.sanity_checks import check_plausible
from tests.conftest import ask

VOCABULARY = 32_064
BASELINES = {"uniform": {"loss": math.log(VOCABULARY)}, "unigram": {"loss": 6.4}}


@pytest.mark.parametrize("loss", [17.3651, math.log(VOCABULARY) + 1e-9, math.nan])
def test_base_loss_worse_than_guessing_is_refused(loss):
    """The past result: 17.3651 nats a token (perplexity 34,799,920) at a vocabulary of 32,064, where guessing gives 10.38."""
    with pytest.raises(ImplausibleLossError, match=r"worse than guessing uniformly \(10\.3755\) and than token freq"):
        check_plausible(loss, BASELINES, [])


def test_refusal_names_the_mistakes_that_were_found_in_order():
    with pytest.raises(ImplausibleLossError, match=r"Found: padding in the labels \(x\); another tokenizer\."):
        check_plausible(17.4, BASELINES, ["padding in the labels (x)", "another tokenizer"])


def test_mistake_that_flatters_is_refused_too():
    """Padding that is attended to gives 0.82 nats where the truth is 2.66."""
    with pytest.raises(ImplausibleLossError, match=r"0\.8200 nats a token\. It cannot be trusted\. Found: padding"):
        check_plausible(0.82, BASELINES, ["padding in the labels"])


def test_base_loss_worse_than_token_frequencies_is_a_warning():
    (warning,) = check_plausible(7.0, BASELINES, [])
    assert "worse than token frequencies alone (6.4000)" in warning
    assert "None of the usual mistakes" in warning


def test_plausible_base_loss_passes():
    assert check_plausible(6.4, BASELINES, []) == []


@pytest.mark.parametrize("changed", ["base model", "adapter"])
def test_adapter_or_base_other_than_in_training_is_refused(smoke, changed):
    """An adapter fits any base of the same shape, and gives a plausible but wrong loss on it."""
    folders = {"base model": smoke.model_dir, "adapter": smoke.adapter_dir}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"right")
    record = {"inputs": hash_paths([smoke.model_dir]), "outputs": hash_paths([smoke.adapter_dir])}
    write_json(smoke.record_path("train"), record)
    evaluate.check_adapter_is_of_base(smoke)
    (folders[changed] / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(AdapterError, match=f"weights.safetensors is not the {changed} of the training"):
        evaluate.check_adapter_is_of_base(smoke)


def test_most_frequent_answer_is_that_of_the_kind_in_training():
    """Twice 1 and once 2 for `gcd`; `sum` has a tie, which the smaller text wins; of `new` training had nothing."""
    train = [
        ask("", answer, kind=kind)
        for kind, answer in [("gcd", "2"), ("gcd", "1"), ("gcd", "1"), ("sum", "9"), ("sum", "3")]
    ]
    test = [ask("", "2", kind=kind) for kind in ("sum", "gcd", "new")]
    assert evaluate.majority_answers(train, test) == ["3", "1", ""]


def test_baselines_are_of_the_test_responses():
    """Train 5 5 6, test 5 7, vocabulary 10: p(5) = 3/13, p(unseen) = 1/13."""
    train, test = [{"labels": [-100, 5, 5]}, {"labels": [6]}], [{"labels": [-100, -100, 5, 7]}]
    baselines = evaluate.baselines_of(train, test, vocab_size=10)
    assert baselines["uniform"] == {"loss": math.log(10), "perplexity": 10.0}
    assert baselines["unigram"]["loss"] == pytest.approx(-(math.log(3 / 13) + math.log(1 / 13)) / 2)
    assert baselines["unigram"]["token_accuracy"] == 0.5
