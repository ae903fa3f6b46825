"""Each usual mistake, made on rows and weights that can be checked by hand; and which losses are refused.

tests/integration/test_faults.py makes them with the default model, and shows the losses that they give.
"""

import copy
import math

import pytest
import torch
from transformers import Phi3ForCausalLM

from lorabundle.core.config import Config
from lorabundle.core.errors import ImplausibleLossError
from lorabundle.core.files import sha256_file
from lorabundle.evaluation.sanity_checks import check_plausible, find_mistakes
from lorabundle.model import prompts
from tests.conftest import ask

VOCABULARY = 32_064
BASELINES = {"uniform": {"loss": math.log(VOCABULARY)}, "unigram": {"loss": 6.4}}


@pytest.mark.parametrize("loss", [17.3651, math.log(VOCABULARY) + 1e-9, math.nan])
def test_base_loss_worse_than_guessing_is_refused(loss):
    """The past result: 17.3651 nats a token (perplexity 34,799,920) at a vocabulary of 32,064, where guessing gives 10.38."""
    with pytest.raises(
        ImplausibleLossError, match=r"worse than guessing uniformly \(10\.3755\) and than guessing by token freq"
    ):
        check_plausible(loss, BASELINES, [])


def test_refusal_names_the_mistakes_that_were_found_in_order():
    with pytest.raises(ImplausibleLossError, match=r"Found: padding in the labels \(x\); another tokenizer\."):
        check_plausible(17.4, BASELINES, ["padding in the labels (x)", "another tokenizer"])


def test_mistake_that_lowers_the_loss_is_refused_too():
    """Padding that is attended to gives 0.82 nats where the truth is 2.66."""
    with pytest.raises(
        ImplausibleLossError, match=r"0\.8200 nats a token\. This loss cannot be right\. Found: padding"
    ):
        check_plausible(0.82, BASELINES, ["padding in the labels"])


def test_base_loss_worse_than_token_frequencies_is_a_warning():
    (warning,) = check_plausible(7.0, BASELINES, [])
    assert "worse than guessing by token frequencies (6.4000)" in warning
    assert "None of the usual mistakes" in warning


def test_plausible_base_loss_passes():
    assert check_plausible(6.4, BASELINES, []) == []


class Evaluation:
    """A tiny model in the run's model folder, two encoded rows, and the manifest that fits."""

    def __init__(self, config: Config, model: Phi3ForCausalLM, tokenizer):
        self.config, self.model, self.tokenizer = config, model, tokenizer
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("norm.weight"):
                    weight.fill_(1.5)  # as if it had been trained
        self.save_weights()
        tokenizer.save_pretrained(config.model_dir)
        records = [ask("hello there", "general"), ask("what is it", "a robe")]
        self.rows = [row | prompts.encode(tokenizer, row["prompt"], row["completion"]) for row in records]
        self.manifest = {"tokenizer_sha256": sha256_file(config.model_dir / "tokenizer.json")}

    def save_weights(self) -> None:
        self.model.save_pretrained(self.config.model_dir)

    def mistakes(self) -> list[str]:
        return find_mistakes(self.config, self.rows, self.manifest, self.model, self.tokenizer)


@pytest.fixture
def evaluation(smoke, tiny_copy, tokenizer) -> Evaluation:
    return Evaluation(smoke, tiny_copy, tokenizer)


def test_without_a_mistake_nothing_is_found(evaluation):
    assert evaluation.mistakes() == []


def test_padding_in_the_labels(evaluation):
    """Three padding tokens (id 1) after the first row's response, copied from the ids into the labels."""
    for column in ("input_ids", "labels"):
        evaluation.rows[0][column] = [*evaluation.rows[0][column], 1, 1, 1]
    assert evaluation.mistakes() == [
        "padding in the labels (in 1 of 2 rows, the labels after the response are the padding token '<|im_end|>')"
    ]


def test_labels_shifted_twice(evaluation):
    for row in evaluation.rows:
        row["labels"] = [*row["labels"][1:], prompts.IGNORE_INDEX]
    (mistake,) = evaluation.mistakes()
    assert mistake.startswith("labels shifted twice (in 2 of 2 rows, each label is that of the next token")


def test_ids_of_another_tokenizer(evaluation):
    row = evaluation.rows[1]
    row["input_ids"], row["labels"] = ([v + 1 if v > 6 else v for v in row[name]] for name in ("input_ids", "labels"))
    assert evaluation.mistakes() == [
        "a tokenizer of another model (the model's tokenizer gives other ids in 1 of 2 rows)"
    ]


def test_splits_made_with_another_tokenizer_file(evaluation):
    evaluation.manifest["tokenizer_sha256"] = "0" * 64
    (mistake,) = evaluation.mistakes()
    assert "tokenised with a tokenizer.json that is not the model's" in mistake


def test_weights_that_were_not_loaded(evaluation):
    evaluation.model = copy.deepcopy(evaluation.model)
    with torch.no_grad():
        evaluation.model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    (mistake,) = evaluation.mistakes()
    assert mistake.startswith(
        "weights that were not loaded (model.layers.1.mlp.down_proj.weight differs from data/models/"
    )


def test_weights_that_were_never_trained(evaluation):
    with torch.no_grad():
        for name, weight in evaluation.model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1.0)
    evaluation.save_weights()
    assert evaluation.mistakes() == ["weights that were never trained (every normalisation weight is exactly 1)"]


def test_several_mistakes_are_in_their_order(evaluation):
    for column in ("input_ids", "labels"):
        evaluation.rows[0][column] = [*evaluation.rows[0][column], 1]
    evaluation.manifest["tokenizer_sha256"] = "0" * 64
    assert [mistake.split(" (")[0] for mistake in evaluation.mistakes()] == [
        "padding in the labels",
        "a tokenizer of another model",
    ]
