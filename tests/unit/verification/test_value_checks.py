"""Scores, metrics, samples and the adapter's files: each is computed again from what it follows from."""

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.core.files import atomic_write, read_jsonl, to_jsonl
from lorabundle.verification.value_checks import check_adapter, check_scores, hashes_of_adapter
from tests.fake_submission import contents, lines, tampered, unpacked

RUN = "outputs/smoke"


def test_an_untouched_archive_has_no_difference(shipped):
    assert check_scores(unpacked()) == check_adapter(unpacked()) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("examples.jsonl", b'"nats": 10.0', b'"nats": 11.0', "metrics.json.models.finetuned.loss: expected"),
        ("examples.jsonl", b'"exact_match": false', b'"exact_match": true', "e1.base.exact_match: expected False, found True"),
        ("examples.jsonl", b'"rouge1"', b'"rouge0"', "examples.jsonl, e1.base.rouge1: expected 0.5, found nothing"),
        ("examples.jsonl", b"Fine-tuned e2", b"Brilliant e2", "examples.jsonl, e2.finetuned.chrf: expected"),
        ("metrics.json", b'"loss": 2.0', b'"loss": 2.5', "metrics.json.models.base.loss: expected 2.0, found 2.5"),
        ("metrics.json", b'"p_value": 0.625', b'"p_value": 0.0', "sign_test.p_value: expected 0.625, found 0.0"),
        ("metrics.json", b'"run": "smoke"', b'"run": "other"', "metrics.json.run: expected smoke, found other"),
        ("metrics.json", b'"schema": 1', b'"schema": 1, "more": 1', "metrics.json.more: expected nothing"),
        ("samples.jsonl", b"Fine-tuned e1", b"Brilliant e1", "samples.jsonl.0.finetuned: expected Fine-tuned e1"),
        ("samples.jsonl", b"Question e1", b"Question x1", "samples.jsonl.0.prompt.0.content: expected"),
    ],
)  # fmt: skip
def test_what_does_not_follow_is_found(shipped, name, old, new, where):
    found = lines(check_scores(unpacked(tampered(shipped, f"{RUN}/{name}", old, new))))
    assert any(where in line for line in found), found


def test_numbers_that_give_no_metrics_are_an_error_of_the_file(shipped):
    """The perplexity of such a loss is too large for a floating-point number."""
    data = contents(shipped)[f"{RUN}/examples.jsonl"].replace(b'"nats": 10.0', b'"nats": 1e17')
    with pytest.raises(MalformedInputError, match=r"examples\.jsonl has numbers that give no metrics"):
        check_scores(unpacked({f"{RUN}/examples.jsonl": data}))


def test_a_last_digit_may_differ(shipped):
    """Another CPU may add the same numbers in another order."""
    data = contents(shipped)[f"{RUN}/metrics.json"]
    changes = (b'"loss": 2.0', b'"loss": 2.0000000000000004')
    assert check_scores(unpacked({f"{RUN}/metrics.json": data.replace(*changes, 1)})) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("adapter/README.md", b"1.4000", b"0.0123", "sha256 of.adapter/README.md: expected"),
        ("adapter/adapter_config.json", b'"r": ', b'"r": 1', "adapter/adapter_config.json.r: expected"),
        ("adapter/adapter_config.json", b'"lora_alpha"', b'"alpha"', "adapter_config.json.lora_alpha: expected"),
        ("adapter/more/code.py", b"", b"more", "sha256 of.adapter/more/code.py: expected nothing"),
        ("environment.json", b'"torch": "2', b'"torch": "9', "environment.json.packages.torch: expected 2"),
        ("environment.json", b'"torch"', b'"evil"', "environment.json.packages.evil: expected not locked"),
        ("train_log.jsonl", b'"eval_loss": 1.4', b'"eval_loss": 1.3', "sha256 of.adapter/README.md: expected"),
    ],
)
def test_files_that_are_loaded_with_the_weights_follow_from_the_run(shipped, name, old, new, where):
    (line,) = lines(check_adapter(unpacked(tampered(shipped, f"{RUN}/{name}", old, new))))
    assert where in line


def test_a_log_without_a_validation_loss_gives_no_model_card(shipped):
    submission = unpacked()
    path = submission.run_dir / "train_log.jsonl"
    rows = [row for row in read_jsonl(path, "") if "eval_loss" not in row]
    atomic_write(path, "".join(map(to_jsonl, rows)))
    with pytest.raises(MalformedInputError, match=r"train_log\.jsonl has no validation loss"):
        check_adapter(submission)


def test_hashes_of_the_adapter_are_named_below_the_run(shipped):
    submission = unpacked()
    assert set(hashes_of_adapter(submission, {"adapter/README.md"})) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
