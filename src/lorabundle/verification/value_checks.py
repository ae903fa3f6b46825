"""Checks of values that follow from other values: scores from answers, metrics from scores, the adapter's files from the run's."""

import contextlib
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.errors import MalformedInputError
from lorabundle.core.files import hash_paths, read_json, read_jsonl, sha256_bytes
from lorabundle.core.locks import read_lock, runtime_lock
from lorabundle.evaluation.aggregate import MODELS, summarise
from lorabundle.evaluation.answer_scores import score_answers
from lorabundle.evaluation.labels import mark
from lorabundle.evaluation.samples import samples
from lorabundle.training.model_card import model_card
from lorabundle.verification.differences import Difference, compare
from lorabundle.verification.findings import say
from lorabundle.verification.reading import REMEDY, read_config
from lorabundle.verification.unpacked import ADAPTER, CARD, SETTINGS, Submission

SAME_SUM = 1e-9  # sums of thousands of floating-point numbers: numpy adds them in an order that depends on the CPU


def check_scores(submission: Submission) -> list[Difference]:
    """Scores against the answers, metrics and samples against the examples."""
    run_config, run_dir = read_config(submission), submission.run_dir
    metrics, manifest = (read_json(run_dir / name, REMEDY) for name in ("metrics.json", "manifest.json"))
    examples, shown = (read_jsonl(run_dir / name, REMEDY) for name in ("examples.jsonl", "samples.jsonl"))
    labels = metrics.get("labels")
    result = _check_answers(examples, has_labels=labels is not None)
    expected = {"schema": 1, "run": run_config.run, "seed": run_config.seed}
    expected |= {"dataset": {"source": manifest["source"], "splits": manifest["splits"]}}
    expected |= {key: metrics[key] for key in ("warnings", "baselines")}  # these need the splits and the model
    expected |= {"labels": labels} if labels is not None else {}  # and these the training rows
    expected |= {"formats": metrics["formats"]} if "formats" in metrics else {}  # and these the machine
    expected |= _summary(examples, run_config.seed)
    result += compare("metrics.json", expected, metrics, relative=SAME_SUM)
    result += compare("samples.jsonl", samples(examples, run_config.sample.num_prompts), shown, relative=SAME_SUM)
    say(f"report: scores and metrics computed from the answers to {len(examples)} examples")
    return result


def _check_answers(examples: list[dict], has_labels: bool) -> list[Difference]:
    """Scores that the answers do not have. Each answer then gets the scores that it has."""
    result = []
    references = [example["reference"] for example in examples]
    for model in MODELS:
        scored = score_answers([example[model]["text"] for example in examples], references)
        for example, scores in zip(examples, scored, strict=True):
            if has_labels:
                scores["score"] = mark(example[model]["text"], example["reference"])
            found = {key: example[model].get(key, "nothing") for key in scores}
            result += compare(f"examples.jsonl, {example['id']}.{model}", scores, found, relative=SAME_SUM)
            example[model] |= scores
    return result


def _summary(examples: list[dict], seed: int) -> dict:
    """The metrics of the examples.

    Raises:
        MalformedInputError: there are none, because a sum is too large or a divisor is zero.
    """
    try:
        return summarise(examples, seed)
    except ArithmeticError as error:
        raise MalformedInputError(f"examples.jsonl has numbers that give no metrics ({error}). {REMEDY}") from error


def check_adapter(submission: Submission) -> list[Difference]:
    """The files that are loaded together with the adapter's weights: model card, settings, tokenizer.

    And the versions of the packages that trained it, against the lock.
    """
    run_config, run_dir = read_config(submission), submission.run_dir
    names = ("manifest.json", "provenance.json", "environment.json", SETTINGS)
    manifest, provenance, environment, settings = (read_json(run_dir / name, REMEDY) for name in names)
    card = model_card(run_config, manifest, _last_validation_loss(submission))
    expected = {CARD: sha256_bytes(card.encode())}
    expected |= {f"adapter/{n}": digest for n, digest in provenance["files"].items() if n in config.TOKENIZER_FILES}
    asked = run_config.lora.model_dump() | {"base_model_name_or_path": run_config.model_dir.as_posix()}
    asked["target_modules"] = sorted(set(run_config.lora.target_modules))
    with contextlib.chdir(submission.folder):
        locked = {name: version for name, (version, _) in read_lock(runtime_lock(environment["platform"])).items()}
    packages = environment["packages"]
    say(f"report: {len(expected) + 1} files of the adapter, and the versions of {len(packages)} packages")
    return [
        *compare("sha256 of", expected, hashes_of_adapter(submission, {ADAPTER, SETTINGS})),
        *compare(SETTINGS, asked, {key: settings.get(key, "nothing") for key in asked}),
        *compare("environment.json.packages", {name: locked.get(name, "not locked") for name in packages}, packages),
    ]


def _last_validation_loss(submission: Submission) -> float:
    rows = read_jsonl(submission.run_dir / "train_log.jsonl", REMEDY)
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    if not losses:
        raise MalformedInputError(f"train_log.jsonl has no validation loss. {REMEDY}")
    return losses[-1]


def hashes_of_adapter(submission: Submission, but: set[str]) -> dict[str, str]:
    """The sha256 of the files in the adapter's folder, by path below the run's folder, except those in `but`."""
    with contextlib.chdir(submission.run_dir):
        hashes = hash_paths([Path("adapter")])
    return {name: digest for name, digest in hashes.items() if name not in but}
