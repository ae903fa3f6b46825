"""The mistakes that make a base model's loss wrong, as far as they can be told from the files at hand.

Their order is that of likelihood. A loss far above ln(vocabulary) is, of the usual mistakes, only made by padding among the
labels: a model that never writes the padding token gives each such position some 15 nats and more, however good the model
is, and most of a padded batch is padding. That explains a reported loss of 17.37 over 32,064 tokens, whose logarithm is
10.38; random weights and labels shifted twice stay within about 1.5 of the logarithm. But where the padding is attended to,
the model learns from the context to repeat it, and the same mistake flatters the loss: so the mistakes are looked for
whatever the loss is. tests/integration/test_faults.py makes each of them.
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
    """The mistakes that are found, likeliest first; an empty list if all checks pass.

    Args:
        run_config: whose model folder the weights should have come from.
        rows: of the test split, with the messages that `input_ids` and `labels` were made from.
        manifest: of the splits.
        model: the base model as it was scored.
        tokenizer: of the model's folder.
    """
    expected = [prompts.encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
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
            f"padding in the labels ({padded} of {len(rows)} rows are supervised beyond their response, on the padding "
            f"token {tokenizer.pad_token!r} alone)"
        )
    return None


def _labels_shifted(rows: list[dict]) -> str | None:
    """Labels stand at their own token's position; the model does the shifting."""
    shifted = 0
    for row in rows:
        pairs = [(place, label) for place, label in enumerate(row["labels"]) if label != prompts.IGNORE_INDEX]
        ids = [*row["input_ids"], None]
        in_place = all(ids[place] == label for place, label in pairs)
        shifted += not in_place and all(ids[place + 1] in (label, None) for place, label in pairs)
    if shifted:
        return f"labels shifted twice ({shifted} of {len(rows)} rows hold the next token's label; the model shifts by itself)"
    return None


def _other_tokenizer(
    rows: list[dict], expected: list[dict], run_config: Config, manifest: dict, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    if manifest["tokenizer_sha256"] != sha256_file(run_config.model_dir / "tokenizer.json"):
        return "a tokenizer of another model (the splits were tokenised with another tokenizer.json than the model's)"
    differing = sum(
        row["input_ids"][: len(right["input_ids"])] != right["input_ids"][: len(row["input_ids"])]
        for row, right in zip(rows, expected, strict=True)
    )
    if differing:
        return f"a tokenizer of another model (the model's own gives other ids in {differing} of {len(rows)} rows)"
    return None


def _weights_not_loaded(run_config: Config, model: PreTrainedModel) -> str | None:
    """Parameters that are not those of the file, or a file of weights as they are before any training."""
    parameters = model.state_dict()
    for file in sorted(run_config.model_dir.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                if name not in parameters or parameters[name].dtype is torch.uint8:  # 4-bit weights differ by design
                    continue
                if not torch.equal(tensors.get_tensor(name).to(model.dtype), parameters[name]):
                    return f"weights that were not loaded ({name} is not what {file} holds)"
    norms = [weight for name, weight in parameters.items() if name.endswith("norm.weight")]
    if norms and all(bool((weight == 1).all()) for weight in norms):
        return "weights that were never trained (every normalisation weight is exactly 1)"
    return None


def check_plausible(loss: float, baselines: dict, causes: list[str]) -> list[str]:
    """Refuse a base model's loss that was measured wrongly, or that no rightly measured model can have.

    Args:
        loss: nats a token.
        baselines: as in metrics.json.
        causes: mistakes that were found, likeliest first (diagnosis.find_mistakes). Some of them flatter the loss.

    Returns:
        Warnings for the report: a loss that token frequencies alone would beat is suspect, but a model that expects long
        answers can do that badly on one-word ones.

    Raises:
        ImplausibleLossError: a mistake was found, or the loss is worse than guessing uniformly, or not a number.
    """
    uniform, unigram = baselines["uniform"]["loss"], baselines["unigram"]["loss"]
    worse_than = [f"guessing uniformly ({uniform:.4f})"] if not loss <= uniform else []
    worse_than += [f"token frequencies alone ({unigram:.4f})"] if not loss <= unigram else []
    finding = f"The base model's test loss is {loss:.4f} nats a token" + (
        f", which is worse than {' and than '.join(worse_than)}" if worse_than else ""
    )
    if causes or not loss <= uniform:
        found = f"Found: {'; '.join(causes)}." if causes else f"None of the usual mistakes was found ({MISTAKES})."
        raise ImplausibleLossError(
            f"{finding}. It cannot be trusted. {found} No result was written; mend the cause and run the same command again."
        )
    return [f"{finding}. None of the usual mistakes was found ({MISTAKES})."] if worse_than else []
