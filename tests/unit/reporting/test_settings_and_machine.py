"""Settings, files and machine, at the end of the report."""

from lorabundle.core.strict_json import Fields
from lorabundle.reporting.figures import FIGURES
from lorabundle.reporting.page import Table
from lorabundle.reporting.settings_and_machine import (
    ORIGINS,
    computed_in,
    origins,
    probe_sentence,
    settings_tables,
    this_run,
)
from tests import fake_run
from tests.unit.reporting.plain_text import cells, plain


def test_settings_are_all_there(smoke):
    rows = dict(row for table in settings_tables(smoke) for row in cells(table))
    assert rows["seed"] == "42"
    assert rows["train.learning_rate"] == "0.001"
    assert rows["lora.target_modules"] == "qkv_proj, o_proj, gate_up_proj, down_proj"
    assert rows["model.revision"] == "null"
    assert rows["train.gradient_checkpointing"] == "false"
    sections = smoke.model_dump(exclude={"run", "seed", "numerics"})
    assert set(rows) == {"seed", "numerics"} | {f"{name}.{key}" for name, values in sections.items() for key in values}


def test_each_part_and_figure_has_its_file():
    rows = {file: (part, stage) for part, file, stage in cells(origins("smoke")[0])}
    assert set(rows) == {f"outputs/smoke/{file}" for file in ORIGINS}
    assert rows["outputs/smoke/train_log.jsonl"] == ("Figure loss", "train")
    assert rows["outputs/smoke/manifest.json"] == (
        "Data card, figure prompt_lengths, figure response_lengths",
        "preprocess",
    )
    assert all(any(figure.name in part for part, _ in rows.values()) for figure in FIGURES)


def test_every_file_that_the_report_reads_has_a_row():
    read = {"stages/<stage>.json" if name.startswith("stages/") else name for name in fake_run.run_files()}
    assert set(ORIGINS) == read | {"config.yaml"}


def run_tables() -> dict[str, Table]:
    results = fake_run.results()
    blocks = this_run(results.environment, results.records, "f" * 64)
    assert plain(blocks[0].line).startswith(f"Fingerprint of the results: {'f' * 64}.")
    return {block.source: block for block in blocks[1:]}


def test_time_and_memory_are_added_up():
    """Five stages of 1.5 s; the peak is the largest, not the sum."""
    rows = cells(run_tables()["stages/<stage>.json"])
    assert [row[0] for row in rows] == ["fetch", "preprocess", "train", "evaluate", "sample", "all stages"]
    assert rows[0][1:] == ["1.5", "2.00"]
    assert rows[-1][1:] == ["7.5", "2.00"]


def test_facts_of_the_machine():
    facts = dict(cells(run_tables()["environment.json"]))
    assert facts["CPU"] == "Some CPU, 2 cores"
    assert facts["Memory"] == "8.0 GB"
    assert facts["Computed in"] == "float32, eager attention"
    assert (facts["Engine"], facts["Commit"], facts["Versions"]) == ("venv", "abc", "torch 2.13.0")


def test_probe_says_what_it_measured_and_chose():
    assert probe_sentence(fake_run.results().environment.part("probe")) == (
        "matrix products: float32 175 GFLOP/s, bfloat16 380 GFLOP/s, int8 420 GFLOP/s (by int_mm); attention: eager 2.0 ms, sdpa "
        "5.0 ms; for settings that are auto: bfloat16 and eager"
    )


def test_formats_that_differ_are_all_named():
    environment = {
        "dtype": "int8",
        "compute_dtype": "int8",
        "activation_dtype": "float32",
        "attn_implementation": "sdpa",
    }
    said = computed_in(Fields(environment, "environment.json"))
    assert said == "weights kept in int8 and multiplied in int8, all else in float32, sdpa attention"
