"""The known mistakes of the field, each made on purpose: a check catches it, or the test shows the number that it gives.

With the default model (vocabulary 49,152, ln = 10.80) and answers about toolz. The system that this one replaces reported a base
loss of 17.3651 at a vocabulary of 32,064 (ln = 10.38). Of these mistakes, padding in the labels explains that: see
`test_padding_in_the_labels_explains_a_loss_of_17`.
"""

import itertools
import math
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorabundle import evaluate, fetch, preprocess, train
from lorabundle.compute.load import load_adapter, load_base
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.core import locks
from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config
from lorabundle.core.errors import AdapterError, HashMismatchError, ImplausibleLossError
from lorabundle.core.files import hash_paths, read_json, read_jsonl, sha256_file, write_json
from lorabundle.data.docstrings import build_records
from lorabundle.evaluation.sanity_checks import check_plausible, find_mistakes
from lorabundle.model import prompts
from lorabundle.model.architecture import load_tokenizer
from tests.conftest import ROOT, ask

IGNORE = prompts.IGNORE_INDEX
UNIFORM = math.log(49_152)
LENGTH = 256  # that a batch would be padded to
ROWS = 10


def encode(tokenizer, record: dict) -> dict:
    """The record, correctly encoded."""
    return record | prompts.encode(tokenizer, record["prompt"], record["completion"])


class Setting:
    """The default model, correctly encoded rows with their scores, and what the checks read."""

    def __init__(self, folder: Path):
        self.config = load_config(ROOT / "config/smoke.yaml", [f"model.name={folder.name}"])
        self.tokenizer = load_tokenizer(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        wheels = locks.locked_wheels(["toolz"], ROOT / "docker/assets.lock", ROOT / "data/raw/wheels")
        records = list(itertools.islice(build_records(wheels), ROWS))
        self.rows = [encode(self.tokenizer, record) for record in records]
        self.scores = score_responses(self.model, self.rows)
        self.manifest = {"tokenizer_sha256": sha256_file(folder / "tokenizer.json")}

    def mistakes(self, rows: list[dict], model: PreTrainedModel | None = None) -> list[str]:
        return find_mistakes(self.config, rows, self.manifest, model or self.model, self.tokenizer)

    def loss(self, rows: list[dict]) -> float:
        return mean_loss(score_responses(self.model, rows))


@pytest.fixture(scope="module")
def setting(fetched) -> Setting:
    return Setting(fetched)


def padded(row: dict, pad: int) -> dict:
    """The mistake: padding is added before the labels are copied from the ids."""
    padding = [pad] * (LENGTH - len(row["input_ids"]))
    return row | {"input_ids": row["input_ids"] + padding, "labels": row["labels"] + padding}


@torch.no_grad()
def plain_nats(model: PreTrainedModel, row: dict, attended: int) -> torch.Tensor:
    """Nats of each supervised position, as a training script computes them with an attention mask over the padding."""
    mask = torch.tensor([[1] * attended + [0] * (len(row["input_ids"]) - attended)])
    logits = model(input_ids=torch.tensor([row["input_ids"]]), attention_mask=mask).logits[0, :-1]
    return torch.nn.functional.cross_entropy(
        logits, torch.tensor(row["labels"][1:]), reduction="none", ignore_index=IGNORE
    )


def test_without_a_mistake_nothing_is_found(setting):
    assert setting.mistakes(setting.rows) == []
    assert 1.5 < mean_loss(setting.scores) < 3.5


def test_padding_in_the_labels_explains_a_loss_of_17(setting):
    """The model never writes a padding token that attention masks: 15 nats or more for each, and most positions are padding.

    This gives a good model a loss far above ln(vocabulary), as 17.3651 is: 7 nats above ln(32,064).
    """
    pad = setting.tokenizer.pad_token_id
    answers, padding = [], []
    for row in setting.rows[:4]:
        nats = plain_nats(setting.model, padded(row, pad), attended=len(row["input_ids"]))
        answers.append(nats[: len(row["input_ids"]) - 1])
        padding.append(nats[len(row["input_ids"]) - 1 :])
    tokens = sum(label != IGNORE for row in setting.rows[:4] for label in row["labels"])
    of_answers = torch.cat(answers).sum() / tokens
    of_padding = torch.cat(padding).mean()
    nats, supervised = torch.cat(answers + padding), sum(map(len, padding)) + tokens
    loss = nats.sum() / supervised
    assert of_answers < 3.5
    assert of_padding > UNIFORM + 3
    assert loss > UNIFORM + 2


def test_padding_in_the_labels_is_caught_where_it_lowers_the_loss(setting):
    """Padding that is attended to is easy to repeat: the loss is lower than the true one, so no baseline would show the mistake."""
    rows = [padded(row, setting.tokenizer.pad_token_id) for row in setting.rows]
    lowered = setting.loss(rows[:4])
    assert lowered < mean_loss(setting.scores[:4]) - 0.5
    mistakes = setting.mistakes(rows)
    assert len(mistakes) == 1
    assert mistakes[0].startswith("padding in the labels (in 10 of 10 rows")
    with pytest.raises(ImplausibleLossError, match="Found: padding in the labels"):
        check_plausible(lowered, {"uniform": {"loss": UNIFORM}, "unigram": {"loss": 6.4}}, mistakes)


def test_labels_shifted_twice(setting):
    """The model is scored on the token after the next one: near ln(vocabulary), however good the model is, but not 17."""
    rows = [row | {"labels": [*row["labels"][1:], IGNORE]} for row in setting.rows]
    assert UNIFORM - 2 < setting.loss(rows) < UNIFORM + 2
    mistakes = setting.mistakes(rows)
    assert len(mistakes) == 1
    assert mistakes[0].startswith("labels shifted twice (in 10 of 10 rows")


def test_mean_of_batch_means(setting):
    """It changes with the batch size, and gives a two-word answer the weight of a long one. Our mean does neither."""

    def mean_of_means(batch_size: int) -> float:
        batches = [setting.scores[start : start + batch_size] for start in range(0, ROWS, batch_size)]
        return sum(map(mean_loss, batches)) / len(batches)

    assert abs(mean_of_means(1) - mean_of_means(5)) > 0.05
    assert abs(mean_of_means(1) - mean_loss(setting.scores)) > 0.05
    assert setting.loss(setting.rows) == pytest.approx(mean_loss(setting.scores), abs=1e-5)


def test_another_tokenizer(setting):
    """Ids of another vocabulary are random words to this model."""
    order = torch.randperm(49_152, generator=torch.Generator().manual_seed(0)).tolist()

    def other(ids: list[int]) -> list[int]:
        return [IGNORE if token == IGNORE else order[token] for token in ids]

    rows = [row | {"input_ids": other(row["input_ids"]), "labels": other(row["labels"])} for row in setting.rows]
    assert UNIFORM - 2 < setting.loss(rows) < UNIFORM + 2
    assert setting.mistakes(rows) == [
        "a tokenizer of another model (the model's tokenizer gives other ids in 10 of 10 rows)"
    ]


def test_splits_made_with_another_tokenizer_file(setting, monkeypatch):
    monkeypatch.setitem(setting.manifest, "tokenizer_sha256", "0" * 64)
    (mistake,) = setting.mistakes(setting.rows)
    assert mistake.startswith(
        "a tokenizer of another model (the splits were tokenised with a tokenizer.json that is not"
    )


def test_random_weights(setting, fetched):
    """Their loss is ln(vocabulary), so they cannot explain a loss of 17."""
    torch.manual_seed(0)
    random = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(fetched)).eval()
    loss = mean_loss(score_responses(random, setting.rows[:4]))
    assert loss == pytest.approx(UNIFORM, abs=0.3)
    (mistake,) = setting.mistakes(setting.rows, random)
    assert mistake.startswith("weights that were not loaded (")


def learn(folder: Path, rows: list[dict]) -> None:
    """Train all weights of a tiny model a little, so that it can be a base model: better than guessing, with trained norms."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokenizer = load_tokenizer(folder)
    encoded = [encode(tokenizer, ask(row["prompt"], row["completion"])) for row in rows]
    input_ids, labels = (
        pad_sequence([torch.tensor(row[name]) for row in encoded], batch_first=True, padding_value=value)
        for name, value in (("input_ids", tokenizer.pad_token_id), ("labels", IGNORE))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(14):
        model(input_ids=input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


@pytest.fixture
def trained(tiny_project: Path, tiny_config) -> Config:
    """The tiny project on a base that has learnt a little, with its training done and recorded."""
    learn(Path("tiny"), read_jsonl(Path("data.jsonl"), ""))
    run_config = tiny_config("train.max_steps=40", "train.eval_steps=40", "train.save_steps=40")
    fetch.run(run_config)
    preprocess.run(run_config)
    files = train.run(run_config)
    record = {"inputs": hash_paths(files.inputs), "outputs": hash_paths(files.outputs)}
    write_json(run_config.record_path("train"), record)
    return run_config


def test_evaluation_without_a_mistake(trained):
    evaluate.run(trained)
    metrics = read_json(trained.run_dir / "metrics.json", "")
    assert metrics["warnings"] == []
    assert (
        metrics["models"]["finetuned"]["loss"]
        < metrics["models"]["base"]["loss"]
        < metrics["baselines"]["uniform"]["loss"]
    )


def test_adapter_that_was_not_applied(trained):
    """LoRA's B matrices start at zero: a new adapter, or one that is not applied, changes no loss."""
    weights = trained.adapter_dir / "adapter_model.safetensors"
    zeroed = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in load_file(weights).items()}
    save_file(zeroed, weights, metadata={"format": "pt"})
    record = read_json(trained.record_path("train"), "")
    record["outputs"] |= hash_paths([weights])  # as if training had left it so
    write_json(trained.record_path("train"), record)
    with pytest.raises(
        AdapterError, match="changes nothing: on every test example its loss is exactly the base model's"
    ):
        evaluate.run(trained)
    assert not (trained.run_dir / "metrics.json").exists()


def test_adapter_of_another_base(trained, tiny_model):
    """It loads without an error, because the shapes fit, but the numbers would be another model's."""
    torch.manual_seed(1)
    other = AutoModelForCausalLM.from_config(tiny_model.config)
    other.save_pretrained(trained.model_dir)
    provenance = trained.model_dir / "provenance.json"
    files = {name: sha256_file(trained.model_dir / name) for name in read_json(provenance, "")["files"]}
    write_json(provenance, read_json(provenance, "") | {"files": files})  # as if fetch had left it so
    assert load_adapter(load_base(trained), trained.adapter_dir)
    with pytest.raises(AdapterError, match=r"model\.safetensors is not the base model of the training"):
        evaluate.run(trained)
    assert not (trained.run_dir / "metrics.json").exists()


@pytest.mark.parametrize("stage", [train, evaluate])
def test_base_weights_with_one_bit_changed(trained, stage):
    """Too small a change to see in a loss, and after training nobody could find it."""
    weights = trained.model_dir / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()  # fetch has linked it
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HashMismatchError, match=r"model\.safetensors is not the file that fetch left"):
        stage.run(trained)


def test_weights_as_before_any_training(trained, tiny_model):
    """A folder whose file has random weights: its loss may pass, but its normalisation weights show it."""
    tiny_model.save_pretrained(trained.model_dir)
    rows = load_from_disk("data/processed/test").to_list()
    manifest = read_json(trained.run_dir / "manifest.json", "")
    tokenizer = load_tokenizer(trained.model_dir)
    mistakes = find_mistakes(trained, rows, manifest, load_base(trained), tokenizer)
    assert mistakes == ["weights that were never trained (every normalisation weight is exactly 1)"]
