"""What the report says about the numbers."""

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.data_card import duplicates, kinds_table, lengths_table, rows_table, source_table
from lorabundle.reporting.page import Code, Line, Table, parts
from lorabundle.reporting.results import by_kind, changes_table, explanation, model_sentence, results_table, verdict
from lorabundle.reporting.settings_and_machine import settings_tables
from tests import fake_run


def plain(line: Line) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in parts(line))


def cells(table: Table) -> list[list[str]]:
    return [[plain(cell) for cell in row] for row in table.rows]


@pytest.fixture
def metrics():
    return fake_run.metrics()


@pytest.fixture
def manifest():
    return fake_run.manifest()


def verdict_lines(metrics: dict) -> list[str]:
    return [plain(line) for line in verdict(Fields(metrics, "metrics.json"))]


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
    metrics["warnings"] = ["The base model's test loss is worse than token frequencies alone."]
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
        ["ROUGE-L", "no measurable difference", "+0.0000", "-0.0200 to +0.0200"],
    ]
    metrics["delta"]["loss"] = {"mean": 0.2, "ci95": [0.1, 0.3]}
    metrics["delta"]["token_accuracy"] = {"mean": -0.2, "ci95": [-0.3, -0.1]}
    assert [row[1] for row in cells(changes_table(Fields(metrics, "metrics.json")))][:2] == ["worse", "worse"]


def test_changes_say_how_the_interval_was_made(metrics):
    caption = changes_table(Fields(metrics, "metrics.json")).caption
    assert caption.endswith("paired bootstrap over 4 groups, 10,000 resamples, seed 42")


def test_kinds(metrics):
    (table,) = by_kind(Fields(metrics, "metrics.json"))
    assert cells(table)[0] == [
        *("word", "3", "2.0667", "1.2333", "-0.8333", "-1.0000 to -0.7000"),
        *("50.0% → 60.0%", "0.090 → 0.090", "0.0% → 0.0%"),
    ]


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
    _, kinds = by_kind(scored)
    one, two = ["1 of 4", "25.0%", "4.6% to 69.9%"], ["2 of 4", "50.0%", "15.0% to 85.0%"]
    assert cells(kinds) == [[kind, *one, *one, *two] for kind in ("all", "word", "sum")]
    assert [plain(cell) for cell in kinds.header[1::3]] == [
        "Most frequent answer: right",
        "Base: right",
        "Fine-tuned: right",
    ]
    assert "Wilson" in explanation(scored, 96)


def test_accuracy_of_one_model_alone_is_a_hole(metrics):
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


def test_what_became_of_the_rows(manifest):
    assert cells(rows_table(Fields(manifest, "manifest.json"))) == [
        ["Read", "20"],
        ["Quarantined as faulty, in outputs/smoke/quarantine.jsonl", "2"],
        ["of these: empty_completion", "2"],
        ["Dropped: exact duplicate", "3"],
        ["Dropped: near duplicate", "1"],
        ["Dropped: over split limit", "2"],
        ["In the splits", "12"],
    ]


def test_nothing_quarantined_names_no_file(manifest):
    manifest["quarantined"] = {"rows": 0, "causes": {}, "file": None}
    assert ["Quarantined as faulty", "0"] in cells(rows_table(Fields(manifest, "manifest.json")))


def test_unknown_licences_are_called_unknown(manifest):
    manifest["licences"] = {}
    table = cells(source_table(Fields(manifest, "manifest.json")))
    assert table[1] == ["Format", "jsonl, shape alpaca; columns: prompt from instruction; completion from output"]
    assert table[2] == ["Licences", "unknown: the data names none"]


def test_lengths(manifest):
    rows = cells(lengths_table(Fields(manifest, "manifest.json").part("lengths")))
    assert rows[2] == ["test", "2", "12.5", "19.5", "20", "2", "8", "19.5", "20"]


def duplicate_blocks(manifest: dict) -> list:
    return duplicates(Fields(manifest, "manifest.json").part("duplicates"))


def test_remaining_pairs_are_named(manifest):
    counts, warning, named = duplicate_blocks(manifest)
    assert cells(counts) == [
        ["Before: among all records", "5", "7", "6", "0"],
        ["After: within one split", "0", "1", "2", "0"],
        ["After: across two splits", "0", "1", "0", "0"],
    ]
    assert plain(warning.line).startswith("Warning: 1 pair of equal or near texts lies in two splits")
    assert cells(named) == [["prompt", "e1 (test)", "t7 (train)", "0.93"]]


def test_pairs_beyond_those_named_are_counted(manifest):
    manifest["duplicates"]["after"]["across"]["completion"] = {"exact": 20, "near": 3}
    _, warning, named = duplicate_blocks(manifest)
    assert "24 pairs of equal or near texts lie in" in plain(warning.line)
    assert named.caption == "Pairs that lie in two splits (1 of 24)"


def test_answers_that_recur_are_told_from_questions_that_do(manifest):
    across = manifest["duplicates"]["after"]["across"]
    across["completion"] = {"exact": 23, "near": 0}
    assert "All are completions" not in plain(duplicate_blocks(manifest)[1].line)
    across["prompt"] = {"exact": 0, "near": 0}
    assert "23 pairs" in plain(duplicate_blocks(manifest)[1].line)
    assert "All are completions" in plain(duplicate_blocks(manifest)[1].line)


def test_no_remaining_pair_is_said_too(manifest):
    manifest["duplicates"] |= {"remaining": []}
    manifest["duplicates"]["after"]["across"]["prompt"]["near"] = 0
    _, sentence = duplicate_blocks(manifest)
    assert sentence.line == "No pair of equal or near texts lies in two splits."


def test_settings_are_all_there(smoke):
    rows = dict(row for table in settings_tables(smoke) for row in cells(table))
    assert rows["seed"] == "42"
    assert rows["train.learning_rate"] == "0.001"
    assert rows["lora.target_modules"] == "qkv_proj, o_proj, gate_up_proj, down_proj"
    assert rows["model.revision"] == "null"
    assert rows["train.gradient_checkpointing"] == "false"
    sections = smoke.model_dump(exclude={"run", "seed", "numerics"})
    assert set(rows) == {"seed", "numerics"} | {f"{name}.{key}" for name, values in sections.items() for key in values}


def test_names_from_files_are_code(manifest):
    manifest["splits"]["train"]["kinds"] = {"*bold*": 4}
    table = kinds_table(Fields(manifest, "manifest.json").part("splits"))
    assert [row[0] for row in table.rows] == [Code("*bold*"), Code("sum"), Code("word")]
    assert cells(table)[0] == ["*bold*", "4", "0", "0"]
