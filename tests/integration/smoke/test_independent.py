"""Our loss compared with two other implementations on the same tokens, in float32.

Outside are plain transformers (`model(input_ids, labels=...)`, row by row) and lm-evaluation-harness (its log-likelihoods
of the response given the prompt). Both get models that the libraries loaded themselves, without our code.
"""

import contextlib
import json

import pytest
import torch
from datasets import load_from_disk
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lorabundle.compute.generate import generate
from lorabundle.compute.load import load_adapter, load_base
from lorabundle.compute.scoring import Score, mean_loss, score_responses
from lorabundle.core.config_file import load_config
from lorabundle.model.prompts import IGNORE_INDEX

NATS_PER_TOKEN = 1e-4
TEST_ROWS = 6  # of the smoke run
OWN_ROWS = 3  # answers of the model itself
NEW_TOKENS = 6
MODELS = ["base", "finetuned"]


def prompt_and_response(row: dict) -> tuple[list[int], list[int]]:
    """A row's token ids, parted where the labels begin."""
    length = row["labels"].count(IGNORE_INDEX)
    assert row["labels"] == [IGNORE_INDEX] * length + row["input_ids"][length:]
    return row["input_ids"][:length], row["input_ids"][length:]


def plain_transformers(model, row: dict) -> Score:
    """The library's own loss of one row, and its own argmax."""
    _, response = prompt_and_response(row)
    with torch.no_grad():
        output = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
    correct = output.logits[0, -len(response) - 1 : -1].argmax(dim=-1) == torch.tensor(response)
    return Score(output.loss.item() * len(response), len(response), int(correct.sum()))


def plain_greedy(model, prompt: list[int], stop: int) -> list[int]:
    """New tokens of the library's `generate`, one prompt at a time."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=stop, pad_token_id=stop)
    input_ids = torch.tensor([prompt])
    outputs = model.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings)
    return outputs[0, len(prompt) :].tolist()


def largest_difference(ours: list[Score], outside: list[Score]) -> float:
    """In nats a token, over the rows."""
    return max(abs(a.nats - b.nats) / a.tokens for a, b in zip(ours, outside, strict=True))


@pytest.fixture(scope="module")
def scored(project, fetched):
    """Per model: the rows, and what each implementation makes of them.

    The rows are the test split, and some of its prompts with the model's own greedy answers: responses of which every
    token ranks first, as no real one here does.
    """
    tokenizer = AutoTokenizer.from_pretrained(fetched)
    test = load_from_disk(project.folder / "data/processed/test").select_columns(["input_ids", "labels"]).to_list()
    prompts = [prompt_and_response(row)[0] for row in test[:OWN_ROWS]]
    config = load_config(project.folder / "config/smoke.yaml", ["model.dtype=float32"])
    with contextlib.chdir(project.folder):
        ours = load_base(config)
    outside = AutoModelForCausalLM.from_pretrained(fetched, dtype=torch.float32).eval()
    results = {}
    for name in MODELS:
        if name == "finetuned":
            ours = load_adapter(ours, project.run / "adapter")
            outside = PeftModel.from_pretrained(outside, project.run / "adapter").eval()
        answers = [plain_greedy(outside, prompt, tokenizer.eos_token_id) for prompt in prompts]
        own = [
            {"input_ids": prompt + answer, "labels": [IGNORE_INDEX] * len(prompt) + answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        rows = test + own
        harness = HFLM(pretrained=outside, tokenizer=tokenizer, backend="causal", batch_size=4)
        requests = [(("", ""), *prompt_and_response(row)) for row in rows]
        results[name] = {
            "rows": rows,
            "ours": score_responses(ours, rows),
            "transformers": [plain_transformers(outside, row) for row in rows],
            "harness": harness._loglikelihood_tokens(requests, disable_tqdm=True),
            "generated": generate(ours, tokenizer, prompts, NEW_TOKENS, batch_size=2),
            "answers": [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers],
            "shifted": score_responses(ours, [row | {"labels": [*row["labels"][1:], IGNORE_INDEX]} for row in rows]),
        }
    return results


@pytest.mark.parametrize("name", MODELS)
def test_loss_is_that_of_plain_transformers(scored, name):
    result = scored[name]
    assert largest_difference(result["ours"], result["transformers"]) < NATS_PER_TOKEN
    assert mean_loss(result["ours"]) == pytest.approx(mean_loss(result["transformers"]), abs=NATS_PER_TOKEN)
    for ours, outside in zip(result["ours"], result["transformers"], strict=True):
        assert (ours.tokens, ours.correct) == (outside.tokens, outside.correct)


@pytest.mark.parametrize("name", MODELS)
def test_loss_is_that_of_lm_evaluation_harness(scored, name):
    result = scored[name]
    outside = [
        Score(-loglikelihood, score.tokens, 0)
        for (loglikelihood, _), score in zip(result["harness"], result["ours"], strict=True)
    ]
    assert largest_difference(result["ours"], outside) < NATS_PER_TOKEN
    assert mean_loss(result["ours"]) == pytest.approx(mean_loss(outside), abs=NATS_PER_TOKEN)
    greedy = [is_greedy for _, is_greedy in result["harness"]]
    assert greedy == [score.correct == score.tokens for score in result["ours"]]
    assert greedy == [False] * TEST_ROWS + [True] * OWN_ROWS


@pytest.mark.parametrize("name", MODELS)
def test_reported_loss_is_that_of_plain_transformers(project, scored, name):
    """What metrics.json says, in the run's own dtype."""
    dtype = json.loads((project.run / "environment.json").read_text())["dtype"]
    reported = json.loads((project.run / "metrics.json").read_text())["models"][name]
    outside = scored[name]["transformers"][:TEST_ROWS]
    assert reported["tokens"] == sum(score.tokens for score in outside)
    assert reported["loss"] == pytest.approx(mean_loss(outside), abs=NATS_PER_TOKEN if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("name", MODELS)
def test_generated_texts_are_those_of_transformers_one_by_one(scored, name):
    assert [generation.text for generation in scored[name]["generated"]] == scored[name]["answers"]


@pytest.mark.parametrize("name", MODELS)
def test_the_check_notices_labels_shifted_twice(scored, name):
    assert largest_difference(scored[name]["shifted"], scored[name]["transformers"]) > 1000 * NATS_PER_TOKEN


def test_the_check_notices_an_adapter_that_is_not_applied(scored):
    before, after = scored["base"]["ours"][:TEST_ROWS], scored["finetuned"]["transformers"][:TEST_ROWS]
    assert largest_difference(before, after) > 100 * NATS_PER_TOKEN
