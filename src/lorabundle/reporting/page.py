"""The parts of a report before it is Markdown or HTML: sections of blocks whose values are already text.

Both renderings show the same page, so they cannot disagree. Text from a file is `Code`: a renderer escapes it, so that it has no
effect on the page. A plain `str` is a sentence of ours or a formatted number.
"""

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Code:
    """A name, path or hash, shown as it is."""

    text: str
    tag: ClassVar[str] = "code"


@dataclass(frozen=True)
class Strong:
    """A few words that the reader must see."""

    text: str
    tag: ClassVar[str] = "strong"


Inline = str | Code | Strong
Line = Inline | list[Inline]


def parts(line: Line) -> list[Inline]:
    """A line's pieces."""
    return line if isinstance(line, list) else [line]


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; a note is in small print."""

    line: Line
    note: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Table:
    """A table whose first `text_columns` columns are text and the others numbers. `source` names its file."""

    caption: str
    source: str
    header: list[Line]
    rows: list[list[Line]]
    text_columns: int = 1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing, `figures/<name>.svg`; `alt` says in words what it shows."""

    name: str
    caption: str
    source: str
    alt: str


@dataclass(frozen=True)
class Figures:
    """Drawings to show side by side."""

    figures: list[Figure]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Text:
    """Text from a model or the dataset, with a label and an optional remark."""

    label: str
    text: str
    remark: str = ""


@dataclass(frozen=True)
class Sample:
    """A test prompt and the answers to it, side by side. The page can be filtered by `picked` and `kind`."""

    id: str
    picked: str
    kind: str
    change: str
    prompt: list[Text]
    answers: list[Text]


@dataclass(frozen=True)
class Samples:
    """All samples, in the file's order."""

    samples: list[Sample]
    kind: ClassVar[str] = "samples"


@dataclass(frozen=True)
class Marked:
    """A text of the dataset, with the parts of it that are marked: (text, whether it is marked)."""

    pieces: list[tuple[str, bool]]
    kind: ClassVar[str] = "marked"


Block = Marked | Paragraph | Table | Figures | Samples


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: list[Block]

    @property
    def slug(self) -> str:
        """The heading as an anchor."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """The complete report. `lead` is the verdict."""

    title: str
    lead: list[Line]
    sections: list[Section] = field(default_factory=list)
