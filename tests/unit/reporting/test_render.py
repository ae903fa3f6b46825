"""Untrusted text has no effect in either rendering: not in a browser, a Markdown viewer or jinja2."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lorabundle import report
from lorabundle.reporting import render
from lorabundle.reporting.page import Code, Page, Paragraph, Section, Strong, Table
from tests.fake_run import Document, run_files, write_run

HTML = Path("reports/results.html")
MARKDOWN = Path("reports/results.md")
EVIL = (
    "</pre></style></script><script>alert(1)</script><img src=x onerror=alert(1)>\" onclick='alert(1)' `code` ``more`` | cell "
    "{{ 7 * 7 }} {% raw %} &lt; <!-- \u202e reversed \u2066 [link](javascript:alert(1)) *bold* _it_ ~~s~~ \\| \\"
)
EVIL_LINES = (
    EVIL
    + "\n```\n# Heading\n````\n~~~\n| a | b |\n| --- | --- |\n\n<b>\n\t\u0627\u0644\u0639\u0631\u0628\u064a\u0629 🎉\n"
)


def spoil(value, text: str):
    """Every text in a file replaced by `text`."""
    if isinstance(value, dict):
        return {key: spoil(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [spoil(item, text) for item in value]
    return text if isinstance(value, str) else value


def rename(counts: dict, old: str, new: str) -> dict:
    return {new if key == old else key: value for key, value in counts.items()}


def hostile_files(name: str, text: str) -> dict:
    """The hand-made run with `name` for every id, kind and source, and `text` for every longer text."""
    files = run_files()
    for row in [*files["samples.jsonl"], *files["examples.jsonl"]]:
        row["id"] = row["group"] = name
        row["kind"] = name if row["kind"] == "word" else row["kind"]
        row["reference"] = text
        for turn in row["prompt"]:
            turn["content"] = text
    for row in files["samples.jsonl"]:
        row["base"] = row["finetuned"] = text
    metrics, manifest = files["metrics.json"], files["manifest.json"]
    metrics["kinds"] = rename(metrics["kinds"], "word", name)
    for split in manifest["splits"].values():
        split["kinds"] = rename(split["kinds"], "word", name)
    for key in ("licences", "source_sha256"):
        manifest[key] = {name: name}
    manifest["quarantined"]["causes"] = {name: 2}
    manifest["dropped"] = {name: 1}
    manifest["format"]["columns"] = {"prompt": name, "completion": name}
    manifest["format"]["shape"] = manifest["notes"][0]["note"] = name
    manifest["format"]["files"] = [name]
    for segment in manifest["example"]:
        segment["text"] = text
    manifest["source"] = manifest["quarantined"]["file"] = name
    for pair in manifest["duplicates"]["remaining"]:
        pair["a"]["id"] = pair["b"]["id"] = name
    files["provenance.json"] = spoil(files["provenance.json"], name)
    files["environment.json"] = spoil(files["environment.json"], name)
    return files


def renderings(config, name: str, text: str) -> tuple[str, str]:
    write_run(config, hostile_files(name, text))
    report.run(config)
    return MARKDOWN.read_text(), HTML.read_text()


def skeleton(document: Document) -> list[tuple]:
    """Every element with the names of its attributes."""
    return [(tag, *sorted(attrs)) for tag, attrs in document.elements]


def test_hostile_text_adds_nothing_to_the_html(smoke):
    tame = Document(renderings(smoke, "tame", "tame")[1])
    hostile = Document(renderings(smoke, EVIL, EVIL_LINES)[1])
    assert skeleton(hostile) == skeleton(tame)
    assert hostile.texts["script"] == tame.texts["script"]
    assert hostile.texts["style"] == tame.texts["style"]
    assert hostile.texts["code"].count(EVIL) == tame.texts["code"].count("tame") > 20
    example = EVIL_LINES * 2  # what is learnt follows what is not
    assert set(hostile.texts["pre"]) == {"\n" + EVIL_LINES, "\n" + example}  # HTML drops the first line break
    assert EVIL in set(hostile.attributes("data-kind"))
    assert all(element[0] != "img" for element in hostile.elements)


def test_hostile_text_adds_nothing_to_the_markdown(smoke):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tame, hostile = (parser.parse(renderings(smoke, *texts)[0]) for texts in (("tame", "tame"), (EVIL, EVIL_LINES)))
    assert [token.type for token in hostile] == [token.type for token in tame]
    example = f"{EVIL_LINES}[[{EVIL_LINES}]]\n"
    assert {token.content for token in hostile if token.type == "fence"} == {EVIL_LINES + "\n", example}
    assert all(token.info == "text" for token in hostile if token.type == "fence")
    before, after = ([child for token in tokens for child in token.children or []] for tokens in (tame, hostile))
    assert [child.type for child in after] == [child.type for child in before]
    codes = [[child.content for child in children if child.type == "code_inline"] for children in (before, after)]
    assert codes[1].count(render.visible(EVIL)) == codes[0].count("tame") > 20


def test_text_direction_marks_end_with_their_line():
    assert render.visible("a\u202eb\nc\x1b[2Jd\u2028e") == "a\\u202eb\\u000ac\\u001b[2Jd\\u2028e"
    assert render.visible("العربية 🎉") == "العربية 🎉"


def test_model_output_cannot_leave_its_code_block():
    text = "```\n# Heading\n````\nmore"
    fence = render.fenced(text).split("text\n")[0]
    assert fence == "`" * 5
    assert render.fenced(text).endswith("\n" + fence)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "`` a`b ``"),
        ("`a``b", "``` `a``b ```"),
        (" a ", "`  a  `"),
        ("", "(empty)"),
        ("  ", "(blank)"),
    ],
)
def test_code_spans(text, span):
    assert render.code_span(text) == span
    if text.strip():
        assert MarkdownIt("commonmark").renderInline(span) == f"<code>{text}</code>"


def test_bars_do_not_split_cells():
    table = Table("c", "f", ["A|", "B"], [[Code("a|b"), Strong("c|d")]])
    text = render.markdown(Page("t", [], [Section("s", [table])]))
    assert "| A\\| | B |" in text
    assert "| `a\\|b` | **c\\|d** |" in text


def test_page_lets_nothing_in(smoke):
    """The policy allows the one style and the one script by hash; no element asks for anything but an anchor."""
    _, html = renderings(smoke, "tame", "tame")
    document = Document(html)
    (policy,) = (attrs["content"] for tag, attrs in document.elements if attrs.get("http-equiv"))
    hashes = {
        tag: base64.b64encode(hashlib.sha256(document.texts[tag][0].encode()).digest()).decode()
        for tag in ("style", "script")
    }
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        f"base-uri 'none'; form-action 'none'"
    )
    assert len(document.texts["style"]) == len(document.texts["script"]) == 1
    assert not [value for name in ("src", "style", "srcset", "action") for value in document.attributes(name)]
    assert all(value.startswith("#") for value in document.attributes("href"))
    assert not re.search(r"url\((?!#)|@import|https?:", html)


def test_every_id_is_there_once_and_every_reference_leads_somewhere(smoke):
    _, html = renderings(smoke, "tame", "tame")
    document = Document(html)
    ids = list(document.attributes("id"))
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in document.attributes("href")} | set(document.attributes("aria-labelledby"))
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(ids)
    assert {"loss", "change", "prompt_lengths", "response_lengths"} <= {value.rpartition("-")[0] for value in wanted}


def test_page_is_accessible(smoke):
    _, html = renderings(smoke, "tame", "tame")
    document = Document(html)
    tags = [tag for tag, _ in document.elements]
    assert document.elements[0] == ("html", {"lang": "en"})
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in document.elements if tag == "th")
    labels = [attrs["aria-label"] for _, attrs in document.elements if attrs.get("role") == "img"]
    assert len(labels) == tags.count("figure") == tags.count("svg") == 4
    assert labels[0].startswith("Line chart: training loss goes from 2.000 at step 1 to 1.500 at step 2; validation")
    assert labels[1] == "Histogram around zero: 3 examples improved, 1 worsened and 0 did not change."
    assert labels[2] == "Histogram. Median tokens: train 10, val 11, test 12.5."


def test_samples_are_side_by_side_and_have_what_the_filter_reads(smoke):
    _, html = renderings(smoke, "tame", "tame")
    document = Document(html)
    samples = [attrs for tag, attrs in document.elements if tag == "article"]
    assert [sample["data-picked"] for sample in samples] == ["first", "largest gain", "largest loss"]
    assert document.texts["option"] == ["all", "first", "largest gain", "largest loss", "all", "tame", "sum"]
    labels = [label.strip() for label in document.texts["h4"]]
    answers = ["Base cut off at the length limit", "Fine-tuned", "Reference"]
    assert labels == ["Prompt, system", "Prompt, user", *answers, "Prompt", *answers, "Prompt", *answers]
    (form,) = (attrs for tag, attrs in document.elements if tag == "form")
    assert "hidden" in form  # the script shows it; without scripts all samples are there


def test_a_paragraph_is_the_same_in_both():
    page = Page("T", [], [Section("S", [Paragraph(["a ", Code("b"), Strong("c")], note=True)])])
    assert "a `b`**c**" in render.markdown(page)
    assert '<p class="note">a <code>b</code><strong>c</strong></p>' in render.html(page, {})
