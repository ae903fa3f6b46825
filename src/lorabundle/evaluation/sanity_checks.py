"""Checks for the usual mistakes that make a base model's loss wrong, most likely mistake first.

Only one of these mistakes gives a loss far above ln(vocabulary): padding in the labels. A model that never writes the padding
token gives each such position 15 nats or more, however good the model is, and most of a padded batch is padding. That explains a
reported loss of 17.37 for a vocabulary of 32,064, whose logarithm is 10.38. Random weights and labels shifted twice stay within
about 1.5 of the logarithm. But if the padding is attended to, the model learns from the context to repeat it, and the same mistake
makes the loss too low. So all checks run, whatever the loss is. tests/integration/test_faults.py makes each mistake on purpose.
"""

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorabundle.core.config import Config
from lorabundle.core.errors import ImplausibleLossError
from lorabundle.core.files import sha256_file
from lorabundle.model import prompts

MISTAKES = "padding in the labels, labels shifted twice, another tokenizer, weights that were not loaded"


def find_mistakes(
    run_config: Config, rows: list[dict], manifest: dict, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """The mistakes found, most likely first; an empty list if all checks pass.

    Args:
        run_config: names the folder that the weights should be from.
        rows: the test split, with the messages that `input_ids` and `labels` were made from.
        manifest: of the splits.
        model: the base model that was scored.
        tokenizer: from the model's folder.
    """
    expected = [prompts.encode(tokenizer, row["prompt"], row["completion"], prompts.tools_of(row)) for row in rows]
    checks = (
        _padding_in_labels(rows, expected, tokenizer),
        _labels_shifted(rows),
        _other_tokenizer(rows, expected, run_config, manifest, tokenizer),
        _weights_not_loaded(run_config, model),
    )
    return [mistake for mistake in checks if mistake]


def _supervised(labels: list[int]) -> list[int]:
    return [label for label in labels if label != prompts.IGNORE_INDEX]


def _padding_in_labels(rows: list[dict], expected: list[dict], tokenizer: PreTrainedTokenizerBase) -> str | None:
    padded = 0
    for row, right in zip(rows, expected, strict=True):
        answer, labels = _supervised(right["labels"]), _supervised(row["labels"])
        surplus = labels[len(answer) :]
        padded += bool(surplus) and set(surplus) == {tokenizer.pad_token_id}
    if padded:
        return (
            f"padding in the labels (in {padded} of {len(rows)} rows, the labels after the response are the padding token "
            f"{tokenizer.pad_token!r})"
        )
    return None


def _labels_shifted(rows: list[dict]) -> str | None:
    """A label belongs at the position of its own token; the model shifts the labels."""
    shifted = 0
    for row in rows:
        pairs = [(place, label) for place, label in enumerate(row["labels"]) if label != prompts.IGNORE_INDEX]
        ids = [*row["input_ids"], None]
        in_place = all(ids[place] == label for place, label in pairs)
        shifted += not in_place and all(ids[place + 1] in (label, None) for place, label in pairs)
    if shifted:
        return (
            f"labels shifted twice (in {shifted} of {len(rows)} rows, each label is that of the next token; the model shifts the "
            f"labels itself)"
        )
    return None


def _other_tokenizer(
    rows: list[dict], expected: list[dict], run_config: Config, manifest: dict, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    if manifest["tokenizer_sha256"] != sha256_file(run_config.model_dir / "tokenizer.json"):
        return "a tokenizer of another model (the splits were tokenised with a tokenizer.json that is not the model's)"
    differing = sum(
        row["input_ids"][: len(right["input_ids"])] != right["input_ids"][: len(row["input_ids"])]
        for row, right in zip(rows, expected, strict=True)
    )
    if differing:
        return (
            f"a tokenizer of another model (the model's tokenizer gives other ids in {differing} of {len(rows)} rows)"
        )
    return None


def _weights_not_loaded(run_config: Config, model: PreTrainedModel) -> str | None:
    """Parameters that differ from those in the file, or a file with the weights of a model that was never trained."""
    parameters = model.state_dict()
    for file in sorted(run_config.model_dir.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                weight = parameters.get(name)
                if weight is None or not weight.is_floating_point():  # weights in int8 or 4 bits differ by design
                    continue
                if not torch.equal(tensors.get_tensor(name).to(weight.dtype), weight):
                    return f"weights that were not loaded ({name} differs from {file})"
    norms = [weight for name, weight in parameters.items() if name.endswith("norm.weight")]
    if norms and all(bool((weight == 1).all()) for weight in norms):
        return "weights that were never trained (every normalisation weight is exactly 1)"
    return None


def check_plausible(loss: float, baselines: dict, causes: list[str]) -> list[str]:
    """Refuse a base model's loss if a mistake was found, or if the loss is too high to be right.

    Args:
        loss: nats a token.
        baselines: as in metrics.json.
        causes: mistakes that `find_mistakes` found, most likely first. Some of them make the loss too low.

    Returns:
        Warnings for the report. A loss that token frequencies would beat is suspect, but possible: a model that expects long
        answers can have it on one-word answers.

    Raises:
        ImplausibleLossError: a mistake was found, or the loss is worse than guessing uniformly, or not a number.
    """
    uniform, unigram = baselines["uniform"]["loss"], baselines["unigram"]["loss"]
    worse_than = [f"guessing uniformly ({uniform:.4f})"] if not loss <= uniform else []
    worse_than += [f"guessing by token frequencies ({unigram:.4f})"] if not loss <= unigram else []
    finding = f"The base model's test loss is {loss:.4f} nats a token"
    finding += f", which is worse than {' and than '.join(worse_than)}." if worse_than else "."
    found = f"Found: {'; '.join(causes)}." if causes else f"None of the usual mistakes was found ({MISTAKES})."
    if causes or not loss <= uniform:
        raise ImplausibleLossError(
            f"{finding} This loss cannot be right. {found} No result was written. Fix the cause and run the same command again."
        )
    return [f"{finding} {found}"] if worse_than else []
