"""What the report says about the numbers."""

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.evaluation.metrics import METRICS
from lorabundle.reporting.page import Samples
from lorabundle.reporting.results import (
    by_kind,
    changes_table,
    check_same_evaluation,
    confusion_tables,
    explanation,
    formats_sentence,
    model_sentence,
    results_page,
    results_table,
    sample_blocks,
    verdict,
)
from tests import fake_run
from tests.unit.reporting.plain_text import cells, plain


@pytest.fixture
def metrics():
    return fake_run.metrics()


EXAMPLES = [Fields({"prompt": [{"role": "user", "content": "q"}], "reference": "An answer"}, "examples.jsonl")]


def verdict_lines(metrics: dict) -> list[str]:
    return [plain(line) for line in verdict(Fields(metrics, "metrics.json"), Fields({"warnings": []}, "manifest.json"))]


def test_verdict_says_when_nothing_was_measured(metrics):
    metrics["delta"]["loss"] = {"mean": -0.01, "ci95": [-0.05, 0.03]}
    assert verdict_lines(metrics)[0].startswith("No measurable difference: the test loss changes by -0.0100")


def test_verdict_says_when_training_made_it_worse(metrics):
    metrics["delta"]["loss"] = {"mean": 0.2, "ci95": [0.1, 0.3]}
    assert verdict_lines(metrics)[0].startswith("Fine-tuning raises the test loss: +0.2000")


def test_verdict_without_an_interval_claims_nothing(metrics):
    metrics["delta"]["loss"]["ci95"] = []
    assert verdict_lines(metrics)[0].startswith(
        "The test loss changes by -0.5000 nats a token (95 % interval none: one group)"
    )


def test_warnings_stand_with_the_verdict(metrics):
    assert len(verdict_lines(metrics)) == 2
    metrics["warnings"] = ["The base model's test loss is worse than guessing by token frequencies."]
    assert verdict_lines(metrics)[2] == f"Warning: {metrics['warnings'][0]}"


@pytest.mark.parametrize(
    ("p_value", "shown"), [(0.625, "p = 0.62"), (1.3e-22, "p = 1.3e-22"), (1.0, "p = 1"), (0.0, "p < 1e-300")]
)
def test_sign_test(metrics, p_value, shown):
    metrics["sign_test"]["p_value"] = p_value
    assert f"(sign test: {shown}). This is one run with one seed." in verdict_lines(metrics)[1]


def test_changes_are_judged_by_their_interval_and_direction(metrics):
    assert cells(changes_table(Fields(metrics, "metrics.json"))) == [
        ["Test loss (nats a token)", "better", "-0.5000", "-0.9000 to -0.1000"],
        ["Token accuracy (percentage points)", "better", "+7.50", "+1.00 to +12.00"],
        ["ROUGE-L (F1)", "no measurable difference", "+0.0000", "-0.0200 to +0.0200"],
    ]
    metrics["delta"]["loss"] = {"mean": 0.2, "ci95": [0.1, 0.3]}
    metrics["delta"]["token_accuracy"] = {"mean": -0.2, "ci95": [-0.3, -0.1]}
    assert [row[1] for row in cells(changes_table(Fields(metrics, "metrics.json")))][:2] == ["worse", "worse"]


def test_changes_say_how_the_interval_was_made(metrics):
    caption = changes_table(Fields(metrics, "metrics.json")).caption
    assert caption.endswith("paired bootstrap over 4 groups, 10,000 resamples, seed 42")


def test_kinds(metrics):
    (section,) = by_kind(Fields(metrics, "metrics.json"))
    (table,) = section.blocks
    losses = ["2.0667", "1.2333", "-0.8333", "-1.0000 to -0.7000"]
    assert cells(table)[0] == ["word", "3", *losses, "50.0% → 60.0%", "0.090 → 0.090", "0.0% → 0.0%"]


def with_accuracy(metrics: dict) -> Fields:
    """Base 1 and fine-tuned 2 of 4 right, 1 by the most frequent answer; Wilson's intervals as on paper."""
    one = {"correct": 1, "examples": 4, "rate": 1 / 4, "ci95": [0.0456, 0.6994]}
    two = {"correct": 2, "examples": 4, "rate": 2 / 4, "ci95": [0.15, 0.85]}
    for values in (metrics, *metrics["kinds"].values()):
        values["majority"] = values["models"]["base"]["accuracy"] = one
        values["models"]["finetuned"]["accuracy"] = two
    return Fields(metrics, "metrics.json")


def test_accuracy_is_shown_where_there_is_one(metrics):
    assert "Accuracy" not in results_table(Fields(metrics, "metrics.json")).header
    scored = with_accuracy(metrics)
    table = results_table(scored)
    assert table.header[-1] == "Accuracy"
    assert [row[-1] for row in cells(table)] == ["–", "–", "25.0% (4.6% to 69.9%)", "50.0% (15.0% to 85.0%)"]
    (section,) = by_kind(scored)
    _, kinds = section.blocks
    one, two = ["1 of 4", "25.0%", "4.6% to 69.9%"], ["2 of 4", "50.0%", "15.0% to 85.0%"]
    assert cells(kinds) == [[kind, *one, *one, *two] for kind in ("all", "word", "sum")]
    assert [plain(cell) for cell in kinds.header[1::3]] == [
        "Most frequent answer: right",
        "Base: right",
        "Fine-tuned: right",
    ]
    assert "Wilson" in explanation(scored, EXAMPLES, 96)


def test_examples_of_one_kind_are_not_listed_twice(metrics):
    del metrics["kinds"]["sum"]
    assert by_kind(Fields(metrics, "metrics.json")) == []
    (section,) = by_kind(with_accuracy(metrics))
    (table,) = section.blocks
    assert (section.title, [row[0] for row in cells(table)]) == ("Right answers", ["all"])


def test_accuracy_of_only_one_model_is_an_error(metrics):
    with_accuracy(metrics)
    del metrics["models"]["finetuned"]["accuracy"]
    with pytest.raises(MalformedInputError, match=r"has no models\.finetuned\.accuracy"):
        results_table(Fields(metrics, "metrics.json"))


def test_default_model_is_not_called_phi_3_mini():
    origin = {"wheel": "w.whl", "gguf": "d/m.gguf"}
    provenance = Fields({"name": "m", "parameters": 134.5e6, "origin": origin}, "provenance.json")
    assert "it is not Phi-3-mini" in plain(model_sentence(provenance))


def test_hub_model_is_named_with_its_commit():
    origin = {"repo_id": "microsoft/Phi-3-mini-4k-instruct", "revision": "f" * 40}
    provenance = Fields({"name": "m", "parameters": 3.8e9, "origin": origin}, "provenance.json")
    sentence = plain(model_sentence(provenance))
    assert f"microsoft/Phi-3-mini-4k-instruct at commit {'f' * 40}." in sentence


def test_formats_of_training_and_evaluation():
    int8 = {"dtype": "int8", "compute_dtype": "int8", "activation_dtype": "float32"}
    same = formats_sentence(Fields({"training": int8, "evaluation": int8}, "metrics.json"))
    assert same == (
        "Formats in training and in evaluation: weights kept in int8 and multiplied in int8, all else in float32. Both models have the "
        "same base weights."
    )
    wide = dict.fromkeys(int8, "float32")
    other = formats_sentence(Fields({"training": int8, "evaluation": wide}, "metrics.json"))
    assert "Formats in training: weights kept in int8 and multiplied in int8, all else in float32." in other
    assert "In evaluation they were others, which changes the losses: float32." in other


def test_every_metric_has_a_column_and_an_explanation(metrics):
    shown = [metric for metric in METRICS.values() if not metric.needs_verifier]
    fields = Fields(metrics, "metrics.json")
    assert results_table(fields).header == ["Model", *(metric.heading for metric in shown)]
    text = explanation(fields, EXAMPLES, 96)
    assert text.startswith(
        "The test split has 4 examples with 40 response tokens. Answers are greedy and have at most 96 tokens."
    )
    assert all(f" {metric.heading}: {metric.explanation}." in text for metric in shown)
    assert "verifier" not in text
    assert text.endswith("BLEU uses sacrebleu's tokenizer 13a.")


def test_numbers_are_in_the_format_of_their_metric(metrics):
    """The uniform guess has no ranking, and neither guess has answers."""
    rows = {row[0]: row[1:] for row in cells(results_table(Fields(metrics, "metrics.json")))}
    scores = ["0.100", "0.050", "0.090", "3.2", "12.3", "1.50", "0.0%", "25.0%", "12.5%"]
    assert rows["Fine-tuned"] == ["1.5000", "4.48", "57.5%", *scores]
    assert rows["Uniform guess (ln vocab)"] == ["10.8027", "49,152.00", *["–"] * 10]
    assert rows["Token frequencies (unigram)"] == ["7.1000", "1,211.97", "5.0%", *["–"] * 9]


def test_sections_are_in_their_order(smoke):
    page = results_page(smoke, fake_run.results())
    assert page.title == "Results of run smoke"
    assert [section.title for section in page.sections] == [
        "Results",
        "Results by kind",
        "Figures",
        "Samples",
        "Data card",
        "Settings",
        "Where the numbers come from",
    ]


def test_examples_of_another_evaluation_are_refused(metrics):
    examples = [Fields(row, "examples.jsonl") for row in fake_run.examples()]
    check_same_evaluation(Fields(metrics, "metrics.json"), examples)
    with pytest.raises(
        MalformedInputError, match=r"is \(3, 30, \{'word': 2, 'sum': 1\}\) in examples\.jsonl and \(4, 40"
    ):
        check_same_evaluation(Fields(metrics, "metrics.json"), examples[1:])


def test_samples_have_prompt_answers_and_reference():
    samples = [Fields(row, "samples.jsonl") for row in fake_run.samples()]
    intro, block = sample_blocks(samples, 96)
    assert plain(intro.line).startswith(
        "3 test prompts with greedy answers of up to 96 tokens: 1 first, 1 largest gain, 1 "
    )
    assert isinstance(block, Samples)
    first = block.samples[0]
    assert [(text.label, text.text) for text in first.prompt] == [
        ("Prompt, system", "Be brief."),
        ("Prompt, user", "Question e1?"),
    ]
    assert [(text.label, text.text, text.remark) for text in first.answers] == [
        ("Base", "Base e1", "cut off at the length limit"),
        ("Fine-tuned", "Fine-tuned e1", ""),
        ("Reference", "Reference e1", ""),
    ]
    assert first.change == "change of loss -1.0000 nats a token"


def test_warnings_about_the_data_stand_with_the_verdict(metrics):
    manifest = Fields({"warnings": ["The test split has only 6 groups of rows."]}, "manifest.json")
    lines = [plain(line) for line in verdict(Fields(metrics, "metrics.json"), manifest)]
    assert lines[-1] == "Warning: The test split has only 6 groups of rows."


def test_conversations_and_other_scripts_are_explained(metrics):
    turns = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "？"},
    ]
    text = explanation(
        Fields(metrics, "m"), [Fields({"prompt": turns, "reference": "小屋在河边。"}, "e"), *EXAMPLES], 96
    )
    assert "1 of the examples are conversations" in text
    assert "characters where the script puts no spaces" in text
    assert "tokenizer" in text


def test_labels_have_a_confusion_table(metrics):
    def example(reference: str, base: str, finetuned: str) -> Fields:
        return Fields(
            {"reference": reference, "base": {"text": base}, "finetuned": {"text": finetuned}}, "examples.jsonl"
        )

    examples = [example("Yes", "yes.", "yes"), example("no", "perhaps", "no"), example("no", "yes", "no")]
    base, finetuned = confusion_tables(Fields({"labels": ["no", "yes"]}, "metrics.json"), examples)
    assert [plain(cell) for cell in base.header] == ["Expected", "no", "yes", "(none of these)"]
    assert cells(base) == [["no", "0", "1", "1"], ["yes", "0", "1", "0"]]
    assert cells(finetuned) == [["no", "2", "0", "0"], ["yes", "0", "1", "0"]]
