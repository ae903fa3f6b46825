"""The report shows what the files say, and is not written if a value is missing."""

import copy
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lorabundle import report
from lorabundle.core.config import PROCESSED, SPLITS
from lorabundle.core.errors import MalformedInputError, MissingInputError
from lorabundle.core.files import write_json
from lorabundle.reporting.run_files import RECORDED
from tests.fake_run import Document, run_files, write_run

MARKDOWN, HTML = Path("reports/results.md"), Path("reports/results.html")
RENDERINGS = (MARKDOWN, HTML)


@pytest.fixture
def files():
    return run_files()


@pytest.fixture
def finished(smoke, files):
    """The smoke run's folder as its stages would leave it."""
    write_run(smoke, files)
    return smoke


def as_document(path: Path) -> Document:
    """A rendering as a reader's program understands it; Markdown is read by a parser that is not ours."""
    text = path.read_text()
    return Document(MarkdownIt("commonmark").enable("table").render(text) if path.suffix == ".md" else text)


def test_report_has_all_rows_and_the_difference(finished):
    report.run(finished)
    text = MARKDOWN.read_text()
    dashes = " | –" * 9
    assert f"| Uniform guess (ln vocab) | 10.8027 | 49,152.00 | –{dashes} |" in text
    assert f"| Token frequencies (unigram) | 7.1000 | 1,211.97 | 5.0%{dashes} |" in text
    scores = "0.100 | 0.050 | 0.090 | 3.2 | 12.3 | 1.50 | 0.0% | 25.0% | 12.5% |"
    assert f"| Base | 2.0000 | 7.39 | 50.0% | {scores}" in text
    assert f"| Fine-tuned | 1.5000 | 4.48 | 57.5% | {scores}" in text
    assert "lowers the test loss: -0.5000 nats a token (95 % interval -0.9000 to -0.1000)" in text
    assert (
        "Of 4 test examples 3 improved, 1 worsened and 0 did not change (sign test: p = 0.62). This is one run" in text
    )
    assert "The numbers are for `tiny` (1.0 M parameters)" in text


def test_both_renderings_have_the_same_tables_and_headings(finished):
    report.run(finished)
    markdown, html = map(as_document, RENDERINGS)
    assert len(markdown.tables) > 15
    captions = html.texts["caption"]
    assert len(captions) == len(html.tables) == len(set(html.attributes("aria-labelledby")))
    assert html.tables == markdown.tables
    assert all(cell for table in html.tables for row in table for cell in row)
    assert html.texts["h1"] == markdown.texts["h1"]
    assert html.texts["h2"] == markdown.texts["h2"]
    assert html.texts["h3"] == markdown.texts["h3"]
    for rendering in (markdown, html):  # the paragraphs that hold the verdict and the warnings
        text = " ".join(rendering.texts["p"])
        assert "Fine-tuning lowers the test loss: -0.5000 nats a token" in text
        assert "1 pair of equal or near texts is in two splits" in text


def test_equal_runs_give_equal_bytes(finished):
    report.run(finished)
    first = {path: path.read_bytes() for path in Path("reports").rglob("*.*")}
    assert sorted(path.relative_to("reports").as_posix() for path in first) == [
        *(f"figures/{name}.{kind}" for name in ("change", "loss") for kind in ("png", "svg")),
        *(f"figures/{name}_lengths.{kind}" for name in ("prompt", "response") for kind in ("png", "svg")),
        "results.html",
        "results.md",
    ]
    report.run(finished)
    assert {path: path.read_bytes() for path in Path("reports").rglob("*.*")} == first


@pytest.mark.parametrize(("path", "heading"), [(MARKDOWN, "\n## This run\n"), (HTML, '<section id="this-run">')])
def test_only_the_last_section_tells_machines_apart(finished, files, path, heading):
    report.run(finished)
    before = path.read_text()
    figures = {figure: figure.read_bytes() for figure in Path("reports/figures").iterdir()}
    other = {key: "other" for key in ("cpu", "engine", "image", "commit", "platform", "python", "numerics")}
    other |= dict.fromkeys(("dtype", "compute_dtype", "activation_dtype"), "other")
    other_probe = {
        "gflops": {"float32": 1.0, "bfloat16": 2.0, "int8": 3.0},
        "int8_kernel": "qlinear",
        "attention_ms": {"eager": 3.0, "sdpa": 4.0},
    }
    other_probe |= {"dtype": "float32", "attn_implementation": "sdpa"}
    other |= {"cores": 64, "memory_bytes": 64e9, "threads": 7, "packages": {"torch": "3"}}
    other |= {"attn_implementation": "sdpa", "probe": other_probe}
    write_json(finished.run_dir / "environment.json", other)
    for stage in RECORDED:
        write_json(finished.record_path(stage), {"seconds": 99, "peak_rss_bytes": 3e9})
    report.run(finished)
    after = path.read_text()
    assert before.split(heading)[0] == after.split(heading)[0]
    assert before.split(heading)[1] != after.split(heading)[1]
    assert "\n## " not in after.split(heading)[1]
    assert "<section" not in after.split(heading)[1]
    assert {figure: figure.read_bytes() for figure in Path("reports/figures").iterdir()} == figures


@pytest.mark.parametrize("missing", ["base", "finetuned"])
def test_missing_row_stops_the_report(finished, files, missing):
    """The system that this one replaces left its fine-tuned row as an ellipsis."""
    files["metrics.json"]["models"][missing] = {}
    write_run(finished, files)
    with pytest.raises(MalformedInputError, match=rf"metrics\.json has no models\.{missing}\."):
        report.run(finished)
    assert not Path("reports").exists()


@pytest.mark.parametrize("name", run_files())
def test_missing_input_stops_the_report(finished, name):
    (finished.run_dir / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        report.run(finished)
    assert not Path("reports").exists()


# Keys that the report does not show, and maps whose keys are data: what is not in them is not missing
UNUSED = (
    r"\.schema$|kinds\.\w+\.models\.\w+\.(perplexity|tokens|examples|rouge[12]|bleu|chrf|stop_rate|length_ratio|repet)"
)
UNUSED += r"|examples\.jsonl\.\d\.(group|id|prompt|reference|\w+\.(?!nats))|train_log"
DATA = r"(source_sha256|licences|causes|dropped|columns|packages|splits\.\w+\.kinds|quarantined\.file|origin)(\.|$)"


def leaves(value: dict | list, path: tuple = ()) -> list[tuple]:
    """The path of every key in a file."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    found = []
    for key, item in items:
        found += [(*path, key)] if isinstance(value, dict) else []
        found += leaves(item, (*path, key))
    return found


def without(files: dict, path: tuple) -> dict:
    changed = copy.deepcopy(files)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


def test_no_key_is_missing_unnoticed(finished, files):
    """Each key of each file is taken away in turn: the report stops, says which it was, and writes nothing."""
    tried = 0
    for path in leaves(files):
        dotted = ".".join(map(str, path))
        if len(path) == 1 or re.search(UNUSED, f".{dotted}") or re.search(DATA, dotted):
            continue
        write_run(finished, {path[0]: without(files, path)[path[0]]})
        with pytest.raises(MalformedInputError, match=str(path[-1])):
            report.run(finished)
        assert not Path("reports").exists(), dotted
        write_run(finished, {path[0]: files[path[0]]})
        tried += 1
    assert tried > 150


@pytest.mark.parametrize("value", [None, "1.5", True, float("inf"), [1.5]])
def test_what_is_no_number_stops_the_report(finished, files, value):
    path = finished.run_dir / "metrics.json"
    path.write_text(path.read_text().replace("4.482", "Infinity" if value == float("inf") else "0"))
    if value != float("inf"):
        files["metrics.json"]["models"]["finetuned"]["perplexity"] = value
        write_run(finished, files)
    with pytest.raises(MalformedInputError, match=r"metrics\.json has .*models\.finetuned\.perplexity"):
        report.run(finished)
    assert not Path("reports").exists()


def test_models_scored_on_different_tokens_are_refused(finished, files):
    files["metrics.json"]["models"]["finetuned"]["tokens"] = 39
    write_run(finished, files)
    with pytest.raises(MalformedInputError, match="for the finetuned model"):
        report.run(finished)


@pytest.mark.parametrize("change", [{"tokens": 11}, {"kind": "other"}])
def test_examples_of_another_evaluation_are_refused(finished, files, change):
    files["examples.jsonl"][0] |= change
    write_run(finished, files)
    with pytest.raises(MalformedInputError, match="of different evaluations"):
        report.run(finished)
    assert not Path("reports").exists()


def test_log_without_training_loss_is_refused_until_training_has_logged_one(finished, files):
    """Make trains again if the log is deleted, because training's record lists it among its outputs."""
    write_run(finished, files | {"train_log.jsonl": [{"step": 2, "eval_loss": 1.4}]})
    with pytest.raises(
        MalformedInputError, match=r"train_log\.jsonl has no training loss.* Delete this file and run `make all`"
    ):
        report.run(finished)
    assert not Path("reports").exists()
    write_run(finished, {"train_log.jsonl": [{"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.4}]})
    report.run(finished)
    assert "training loss is 1.500 at step 2" in HTML.read_text()


def test_every_file_is_named_as_a_source(finished, files):
    report.run(finished)
    for path in RENDERINGS:
        text = path.read_text()
        for name in files:
            shown = "stages/&lt;stage&gt;.json" if path == HTML else "stages/<stage>.json"
            assert f"outputs/smoke/{shown if name.startswith('stages/') else name}" in text


def test_record_lists_what_was_read_and_written(finished, files):
    written = report.run(finished)
    splits = {PROCESSED / split for split in SPLITS}
    assert set(written.inputs) == splits | {finished.adapter_dir} | {finished.run_dir / name for name in files}
    assert {*Path("reports").rglob("*.*"), finished.run_dir / "RESULTS.sha256"} == set(written.outputs)
