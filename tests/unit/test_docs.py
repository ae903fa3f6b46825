"""README.md, CONTRIBUTING.md and docs/: what they link to and name exists, their commands work, their numbers are the reference's."""

import ast
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lorabundle.core.config import Config, Section
from lorabundle.core.config_file import load_config, load_resolved
from tests.conftest import ROOT
from tests.unit import test_makefile

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "src/lorabundle"
MOST_WORDS = 1800  # of README.md
PATH = re.compile(r"(?<![\w/.-])(?:src|tests|docker|config|docs|reports/reference)/[\w./*<>-]+")
OWN_CONFIG = "config/mine.yaml"  # the reader writes it
MAKE_LINE = re.compile(r"make(?: .*)?")
VARIABLE = re.compile(r"([A-Z_]+)=")
SECTIONS = {
    name: kind
    for name, kind in ((name, field.annotation) for name, field in Config.model_fields.items())
    if isinstance(kind, type) and issubclass(kind, Section)
}
KEY = re.compile(rf"(?<![\w/.-])({'|'.join(SECTIONS)})\.([a-z_0-9]+)\b")
FILE_SUFFIXES = {"py", "json", "jsonl"}  # train.py is a module and not a key
project = test_makefile.project  # the fixture


@dataclass
class PageContent:
    """What is checked of a page: links, code (spans and lines of blocks), YAML blocks and the anchors of its headings."""

    text: str
    links: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    yaml: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)


def slug(heading: Token) -> str:
    """A heading's anchor by GitHub's rules: lower case, only letters, digits, underscores and hyphens, hyphens for spaces."""
    text = "".join(part.content for part in heading.children)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def numbered(slugs: list[str]) -> list[str]:
    """Anchors of headings in order: GitHub gives the second of two equal ones the number 1."""
    copies = Counter()
    anchors = []
    for name in slugs:
        anchors.append(f"{name}-{copies[name]}" if copies[name] else name)
        copies[name] += 1
    return anchors


@cache
def read_page(path: str) -> PageContent:
    """A page of the project, parsed."""
    page = PageContent((ROOT / path).read_text())
    tokens = MarkdownIt("commonmark").enable("table").parse(page.text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence":
            page.code += token.content.splitlines()
            page.yaml += [token.content] if token.info == "yaml" else []
        if token.type == "inline" and before.type == "heading_open":
            page.anchors.append(slug(token))
        for part in token.children or []:
            if part.type in ("link_open", "image"):
                page.links.append(part.attrs.get("href") or part.attrs["src"])
            elif part.type == "code_inline":
                page.code.append(part.content)
    page.anchors = numbered(page.anchors)
    return page


def section(path: str, heading: str) -> str:
    """The text of a page from a heading to the next of its level or above."""
    start = re.search(rf"^(##+) {re.escape(heading)}\n", read_page(path).text, re.M)
    rest = read_page(path).text[start.end() :]
    return re.split(rf"^#{{1,{len(start[1])}}} ", rest, maxsplit=1, flags=re.M)[0]


def table_rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without the rules below their headers."""
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if not re.fullmatch(r"[-: ]+", cells[0])]


def commands() -> list[str]:
    """Every make command on the pages, once."""
    found = (line.partition("  #")[0].strip() for path in PAGES for line in read_page(path).code)
    return sorted({line for line in found if MAKE_LINE.fullmatch(line)})


# --- links and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path):
    for link in read_page(path).links:
        if re.match(r"\w+://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in read_page(target.resolve().relative_to(ROOT).as_posix()).anchors, (
                f"{link}: no such heading"
            )


def test_anchors_follow_githubs_rules():
    assert slug(MarkdownIt().parse("## What `make` says: 1, 2 (or half-way)")[1]) == "what-make-says-1-2-or-half-way"
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a-1", "a-2"]


@pytest.mark.parametrize("path", PAGES)
def test_paths_exist(path):
    for name in PATH.findall(read_page(path).text):
        name = name.rstrip(".")
        if "<" not in name and name != OWN_CONFIG:
            assert list(ROOT.glob(name)), f"{name}: no such file"


@pytest.mark.parametrize("path", PAGES)
def test_config_keys_exist(path):
    for code in read_page(path).code:
        for name, key in KEY.findall(code):
            assert key in {*SECTIONS[name].model_fields, *FILE_SUFFIXES}, f"{code}: {name} has no {key}"


@pytest.mark.parametrize("path", PAGES)
def test_example_configs_are_valid(path, workspace):
    for text in read_page(path).yaml:
        Path(OWN_CONFIG).write_text(text)
        load_config(Path(OWN_CONFIG))


# --- commands ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dry_project(project):
    """A copy of the project in which `make -n` finds every file that a rule or the reader's command names."""
    for file in (ROOT / "docker").iterdir():
        if file.is_file() and not Path("docker", file.name).exists():
            Path("docker", file.name).touch()
    Path(OWN_CONFIG).write_text("extends: default.yaml\nrun: mine\n")
    Path("path/to").mkdir(parents=True)
    Path("path/to/mine.csv").touch()
    Path("data/mine").mkdir(parents=True)
    for name in ("qa.xlsx", "a.csv", "b.csv", "mine/train.jsonl", "mine/test.jsonl"):
        Path("data", name).touch()
    return project


def dry_run(command: str) -> str:
    """What make would run."""
    finished = subprocess.run(["bash", "-c", command.replace("make", "make -n", 1)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_make_commands_are_valid(dry_project):
    sources = "".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / "docker").glob("*.sh")))
    for command in commands():
        dry_run(command)
        for variable in VARIABLE.findall(command):
            assert re.search(rf"\$[({{]?{variable}\b", sources), f"{command}: nothing reads {variable}"
        config = re.search(r"CONFIG=(\S+)", command)
        assert not config or Path(config[1]).is_file(), f"{command}: no such config"
    assert not Path("ran").exists()  # no stage ran


def test_own_data_in_one_line(dry_project):
    """As README says: the run takes the file's name, unless SET has another."""
    inspect, command = section("README.md", "Your own data").split("```")[1].strip().splitlines()
    assert inspect.startswith("make inspect DATA=path/to/mine.csv  ")
    assert command == "make all DATA=path/to/mine.csv"
    for run, changes in (("mine", []), ("try1", ["SET=run=try1"])):
        test_makefile.make("all", "DATA=path/to/mine.csv", *changes, config="config/default.yaml")
        settings = load_resolved(Path(f"outputs/{run}/config.yaml"))
        assert (settings.run, settings.data.source, settings.data.packages) == (run, "path/to/mine.csv", [])
        assert Path(f"archive/submission-{run}.tar.gz").exists()


# --- what README says ----------------------------------------------------------------------------------------------------


def test_readme_is_short():
    assert len(read_page("README.md").text.split()) <= MOST_WORDS


def test_readme_sections_are_in_order():
    assert re.findall(r"^## (.*)", read_page("README.md").text, re.M) == [
        "Two commands",
        "What the default run gives",
        "Your own data",
        "Your own model",
        "What you get",
        "Checking a submission",
        "When something goes wrong",
        "More",
    ]


def messages() -> Iterator[str]:
    """The texts that the code can print, with values as `...`, and those of the scripts."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    yield from (file.read_text() for file in (ROOT / "docker").glob("*.sh"))


def test_messages_in_the_table_of_failures_are_printed_by_something():
    known = list(messages())
    quoted = [cell for row in table_rows(section("README.md", "When something goes wrong")) for cell in row[:1]]
    quoted = [text for cell in quoted for text in re.findall(r"`([^`]+ [^`]+)`", cell)]
    assert len(quoted) > 8
    for text in quoted:
        assert any(text in message for message in known), f"{text}: nothing prints this"


METRIC_FORMATS = {
    "Test loss": ("loss", "{:.4f}"),
    "Test perplexity": ("perplexity", "{:,.2f}"),
    "Token accuracy": ("token_accuracy", "{:.1%}"),
    "ROUGE-L": ("rougeL", "{:.3f}"),
    "BLEU": ("bleu", "{:.1f}"),
    "chrF": ("chrf", "{:.1f}"),
    "Exact match": ("exact_match", "{:.1%}"),
    "Stop rate": ("stop_rate", "{:.1%}"),
}


@pytest.mark.parametrize(
    ("path", "heading"), [("README.md", "What the default run gives"), ("docs/results.md", "The default run")]
)
def test_results_table_has_the_numbers_of_the_reference(path, heading):
    metrics = json.loads((ROOT / "reports/reference/phi-3.metrics.json").read_text())
    values = [*(metrics["baselines"][name] for name in ("uniform", "unigram"))]
    values += [metrics["models"][name] for name in ("base", "finetuned")]
    expected = [
        [form.format(value[key]) if key in value else "–" for key, form in METRIC_FORMATS.values()] for value in values
    ]
    header, *rows = table_rows(section(path, heading))[:5]
    assert header == ["Model", *METRIC_FORMATS]
    assert [row[1:] for row in rows] == expected


def test_table_of_tasks_has_the_numbers_of_the_reference():
    metrics = json.loads((ROOT / "reports/reference/reasoning.metrics.json").read_text())
    scored = {"all": metrics, **metrics["kinds"]}
    header, *rows = table_rows(section("docs/results.md", "Tasks with right answers"))
    assert header == ["Task", "Most frequent answer", "Base", "Fine-tuned"]
    assert [row[0] for row in rows] == list(scored)
    for name, *cells in rows:
        parts = [scored[name]["majority"], *(scored[name]["models"][key]["accuracy"] for key in ("base", "finetuned"))]
        for cell, part in zip(cells, parts, strict=True):
            low, high = part["ci95"]
            shown = f"{part['correct']} of {part['examples']}, {part['rate']:.1%} ({low:.1%} to {high:.1%})"
            assert cell == shown or (part["correct"] == 0 and cell == shown.partition(",")[0])


# --- what CONTRIBUTING says ----------------------------------------------------------------------------------------------


def layout() -> dict[str, str]:
    """What CONTRIBUTING's layout says of each package, by its name; the commands are under "src/lorabundle"."""
    items = re.findall(r"^- `([\w/]+)/`: (.*?)(?=^- |^$)", section("CONTRIBUTING.md", "The package"), re.M | re.S)
    return dict(items)


def test_layout_describes_every_package_and_module():
    described = layout()
    folders = {"src/lorabundle": PACKAGE} | {path.parent.name: path.parent for path in PACKAGE.glob("*/__init__.py")}
    for name, folder in folders.items():
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        named = set(re.findall(r"`(\w+)`", described[name]))
        assert modules <= named, f"{name}/: {modules - named} not described"


@pytest.mark.parametrize("name", list(layout()))
def test_layout_describes_only_what_exists(name):
    folder = PACKAGE if name == "src/lorabundle" else PACKAGE / name
    for module in re.findall(r"`(\w+)` \(", layout()[name]):
        assert (folder / f"{module}.py").is_file(), f"{name}/: no module {module}"


def recipes() -> dict[str, str]:
    """The numbered recipes by title."""
    text = section("CONTRIBUTING.md", "Recipes")
    return dict(re.findall(r"^### \d+\. (.*?)\n(.*?)(?=^### |\Z)", text, re.M | re.S))


def test_ten_recipes_are_numbered():
    numbers = re.findall(r"^### (\d+)\. ", section("CONTRIBUTING.md", "Recipes"), re.M)
    assert numbers == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize("title", list(recipes()))
def test_names_in_a_step_are_in_a_file_that_the_step_names(title):
    """Else someone has renamed a function, and the step leads nowhere."""
    for step in re.split(r"^(?=\d+\. )|\n\n", recipes()[title], flags=re.M):
        files = [ROOT / name.rstrip(".") for name in PATH.findall(step)]
        texts = [file.read_text() for file in files if file.is_file() and file.suffix != ".png"]
        for name in re.findall(r"`([a-zA-Z_]\w*)`", step):
            assert not texts or any(re.search(rf"\b{name}\b", text) for text in texts), f"{name} is in none of {files}"
