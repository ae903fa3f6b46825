"""A page as Markdown and as HTML. Neither formats a number: both show the texts that they are given.

Text from files (model output, the user's data) is untrusted. In Markdown it is in code spans and code blocks that it cannot end.
In HTML jinja2 escapes it, and a content security policy allows only the page's own style and script.
"""

import base64
import hashlib
import re
import unicodedata
from pathlib import Path

import jinja2
from markupsafe import Markup

from lorabundle.reporting.page import (
    Block,
    Code,
    Figure,
    Figures,
    Inline,
    Line,
    Marked,
    Page,
    Paragraph,
    Sample,
    Samples,
    Strong,
    Table,
    Text,
    parts,
)

TEMPLATES = Path(__file__).parent / "templates"
MARKS = re.compile(r"([\\`*_<>\[\]|~&#])")  # what has a meaning inside a line of Markdown
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they can reorder what follows


def visible(text: str, keep: str = "") -> str:
    """Text in which line breaks, control characters and text-direction characters are visible escapes, except those to `keep`."""
    return "".join(
        f"\\u{ord(c):04x}" if c not in keep and (unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in BIDI) else c
        for c in text
    )


def code_span(text: str) -> str:
    """Text as a Markdown code span that it cannot end."""
    text = visible(text)
    if not text.strip():
        return f"({'blank' if text else 'empty'})"
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if len(ticks) > 1 or text[0] == text[-1] == " " else ""  # Markdown takes one space off each end
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str) -> str:
    """Text as a Markdown code block that it cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def escaped(text: str) -> str:
    """Text in which every character that has a meaning in Markdown is escaped."""
    return MARKS.sub(r"\\\1", visible(text))


def _line(line: Line) -> str:
    return "".join(map(_inline, parts(line)))


def _inline(part: Inline) -> str:
    if isinstance(part, Code):
        return code_span(part.text)
    if isinstance(part, Strong):
        return f"**{escaped(part.text)}**"
    return escaped(part)


def _cell(line: Line) -> str:
    """A table cell. In a cell, a bar must also be escaped in code; elsewhere `_inline` has escaped it."""
    return "".join(
        _inline(part).replace("|", "\\|") if isinstance(part, Code) else _inline(part) for part in parts(line)
    )


def _table(table: Table) -> str:
    rule = ["---"] * table.text_columns + ["---:"] * (len(table.header) - table.text_columns)
    lines = [list(map(_cell, table.header)), rule, *(list(map(_cell, row)) for row in table.rows)]
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{_line(table.caption)} ({code_span(table.source)}):\n\n{rows}"


def _figure(figure: Figure) -> str:
    caption = f"{_line(figure.caption)} ({code_span(figure.source)})."
    return f"![{_line(figure.alt)}](figures/{figure.name}.svg)\n\n{caption}"


def _text(text: Text) -> str:
    remark = f" ({_line(text.remark)})" if text.remark else ""
    return f"{_line(text.label)}{remark}\n{fenced(text.text)}"


def _sample(number: int, sample: Sample) -> str:
    about = f"{_line(sample.picked)}; kind {code_span(sample.kind)}; {_line(sample.change)}."
    texts = map(_text, [*sample.prompt, *sample.answers])
    return "\n\n".join([f"### {number}. {code_span(sample.id)}", about[0].upper() + about[1:], *texts])


def _block(block: Block) -> str:
    match block:
        case Marked():
            return fenced("".join(f"[[{text}]]" if is_marked else text for text, is_marked in block.pieces))
        case Paragraph():
            return _line(block.line)
        case Table():
            return _table(block)
        case Figures():
            return "\n\n".join(map(_figure, block.figures))
        case Samples():
            return "\n\n".join(_sample(number, sample) for number, sample in enumerate(block.samples, start=1))


def markdown(page: Page) -> str:
    """The page as Markdown; its figures are separate files."""
    blocks = [f"# {_line(page.title)}", *map(_line, page.lead)]
    for section in page.sections:
        blocks += [f"## {_line(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(blocks) + "\n"


def html(page: Page, figures: dict[str, str]) -> str:
    """The page as one HTML file that loads nothing.

    Args:
        page: what to show.
        figures: the `<svg>` element of each figure, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("results.css", "filter.js"))
    return environment.get_template("results.html.jinja").render(
        page=page,
        parts=parts,
        figures={name: Markup(svg) for name, svg in figures.items()},  # drawn by us, without any text from the data
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; base-uri 'none'; "
        f"form-action 'none'",
    )


def fill(template: Path, **values: object) -> str:
    """A Markdown template filled with values; `| code` shows a value as a code span that it cannot end."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: code_span(str(value)).replace("|", "\\|")  # it may be in a table
    return environment.get_template(template.name).render(values)


def _source(text: str) -> str:
    """The name of an inline element in a content security policy: its sha256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
