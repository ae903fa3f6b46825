"""The report's data card: what the dataset is, which rows were left out and why, and which texts the splits share."""

from lorabundle.core.config import SPLITS
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.page import Block, Code, Inline, Line, Marked, Paragraph, Strong, Table

MANIFEST = "manifest.json"
COLUMNS = ("prompt", "completion")
MOST_FILES = 10  # that the table names
DEGREES = ("exact", "near")


def data_card(manifest: Fields) -> list[Block]:
    """All blocks of the card."""
    return [
        source_table(manifest),
        rows_table(manifest),
        splits_table(manifest),
        Paragraph("A training row as the model sees it; what it learns is marked ([[ ]] in the Markdown report):"),
        Marked([(part.text("text"), bool(part["learnt"])) for part in manifest["example"]]),
        Paragraph(split_sentence(manifest)),
        kinds_table(manifest.part("splits")),
        lengths_table(manifest.part("lengths")),
        *duplicates(manifest.part("duplicates")),
        hashes_table(manifest),
    ]


def source_table(manifest: Fields) -> Table:
    """Where the data comes from, how it was read, and its licences."""
    form = manifest.part("format")
    shape: list[Inline] = [Code(form.text("file")), ", shape ", Code(form.text("shape"))]
    for number, (ours, theirs) in enumerate(form.part("columns").items()):
        shape += ["; " if number else "; columns: ", f"{ours} from ", Code(str(theirs))]
    licences: list[Inline] = []
    for number, (name, licence) in enumerate(manifest.part("licences").items()):
        licences += [*([", "] if number else []), Code(name), " ", Code(str(licence))]
    files = form["files"]
    rows: list[list[Line]] = [
        ["Source", Code(manifest.text("source"))],
        *([["File" if number == 0 else "", Code(str(file))] for number, file in enumerate(files[:MOST_FILES])]),
        ["Format", shape],
        ["Licences", licences or "unknown: the data states none"],
    ]
    return Table("Source", MANIFEST, ["Fact", "Value"], rows, text_columns=2)


def split_sentence(manifest: Fields) -> str:
    """How the rows came into their splits."""
    own = [str(name) for name in manifest["own_splits"]]
    if not own:
        return "Rows with equal or similar texts form a group. No group is in two splits."
    cut = [name for name in SPLITS if name not in own]
    rest = f" {' and '.join(cut).capitalize()} was cut from train by groups of equal or similar rows." if cut else ""
    return (
        f"The data itself says which rows are {' and '.join(own)}; they were kept so.{rest} Training rows that were equal or similar to "
        f"held-out ones were removed."
    )


def rows_table(manifest: Fields) -> Table:
    """What became of every row that was read."""
    quarantined = manifest.part("quarantined")
    rows: list[list[Line]] = [["Read", manifest.number("records", "{:,}")]]
    where: list[Inline] = [", in ", Code(quarantined.text("file"))] if "file" in quarantined else []
    rows.append([["Quarantined as faulty", *where], quarantined.number("rows", "{:,}")])
    causes = quarantined.part("causes")
    rows += [[["of these: ", Code(cause)], causes.number(cause, "{:,}")] for cause in causes]
    dropped = manifest.part("dropped")
    rows += [[f"Dropped: {cause.replace('_', ' ')}", dropped.number(cause, "{:,}")] for cause in dropped]
    for note in manifest["notes"]:
        rows.append([["Note: ", Code(note.text("note"))], note.number("rows", "{:,}")])
    used = sum(manifest.part("splits").part(name)["examples"] for name in SPLITS)
    rows.append(["In the splits", f"{used:,}"])
    return Table("What became of the rows", MANIFEST, ["Rows", "Number"], rows)


def splits_table(manifest: Fields) -> Table:
    """Sizes of the splits."""
    cut = manifest.part("truncated")
    rows: list[list[Line]] = []
    for name in SPLITS:
        split = manifest.part("splits").part(name)
        sizes = [split.number(key, "{:,}") for key in ("examples", "groups", "tokens", "response_tokens")]
        rows.append([name, *sizes, cut.number(name, "{:,}")])
    header: list[Line] = ["Split", "Examples", "Groups", "Tokens", "Response tokens", "Cut at the length limit"]
    return Table("Splits", MANIFEST, header, rows)


def kinds_table(splits: Fields) -> Table:
    """Examples of each kind in each split."""
    counts = [splits.part(name).part("kinds") for name in SPLITS]
    kinds = sorted(set().union(*counts))
    rows: list[list[Line]] = [
        [Code(kind), *(count.number(kind, "{:,}") if kind in count else "0" for count in counts)] for kind in kinds
    ]
    return Table("Examples by kind and split", MANIFEST, ["Kind", *SPLITS], rows)


def lengths_table(lengths: Fields) -> Table:
    """Lengths of prompts and responses, in tokens before cutting."""
    statistics = {"min": "min", "median": "median", "p95": "95th percentile", "max": "max"}
    header: list[Line] = ["Split"]
    header += [f"{what}: {label}" for what in ("Prompt", "Response") for label in statistics.values()]
    rows: list[list[Line]] = []
    for name in SPLITS:
        both = [lengths.part(name).part(what) for what in ("prompt", "response")]
        rows.append([name, *(values.number(key, "{:,.10g}") for values in both for key in statistics)])
    return Table("Lengths in tokens, before cutting", MANIFEST, header, rows)


def duplicates(found: Fields) -> list[Block]:
    """Number of pairs of equal and of similar texts before and after cleaning, and the pairs that are in two splits."""
    after = found.part("after")
    places = {
        "Before: among all records": found.part("before"),
        "After: within one split": after.part("within"),
        "After: across two splits": after.part("across"),
    }
    rows: list[list[Line]] = [
        [label, *(place.part(column).number(degree, "{:,}") for column in COLUMNS for degree in DEGREES)]
        for label, place in places.items()
    ]
    header: list[Line] = ["Pairs", *(f"{column.capitalize()}: {degree}" for column in COLUMNS for degree in DEGREES)]
    threshold = found.number("threshold", "{:g}")
    caption = f"Pairs of texts that are equal (exact), or have a similarity of {threshold} or more (near)"
    across = {column: sum(after.part("across").part(column)[degree] for degree in DEGREES) for column in COLUMNS}
    return [Table(caption, MANIFEST, header, rows), *remaining(found["remaining"], across)]


def remaining(pairs: list[Fields], across: dict[str, int]) -> list[Block]:
    """The warning about pairs that are in two splits, because training may have seen these test texts.

    Args:
        pairs: those that the manifest lists.
        across: number of all such pairs, by column.
    """
    total = max(sum(across.values()), len(pairs))
    if not total:
        return [Paragraph("No pair of equal or near texts is in two splits.")]
    pairs_are = "1 pair of equal or near texts is" if total == 1 else f"{total:,} pairs of equal or near texts are"
    warning = [Strong("Warning:"), f" {pairs_are} in two splits, which can make the scores too good."]
    if not across["prompt"]:
        warning.append(
            " All of them are completions to different prompts. Numbers and labels recur in any dataset; longer answers should not."
        )
    if not pairs:
        return [Paragraph(warning)]
    rows: list[list[Line]] = []
    for pair in pairs:
        ends = [pair.part(end) for end in ("a", "b")]
        names: list[Line] = [[Code(end.text("id")), f" ({end.text('split')})"] for end in ends]
        rows.append([pair.text("column"), *names, pair.number("similarity", "{:.2f}")])
    header: list[Line] = ["Column", "One", "Other", "Similarity"]
    caption = f"Pairs that are in two splits ({len(pairs)} of {total:,})"
    return [Paragraph(warning), Table(caption, MANIFEST, header, rows, text_columns=3)]


def hashes_table(manifest: Fields) -> Table:
    """What identifies the data: sources, tokenizer, chat template and splits."""
    rows: list[list[Line]] = []
    sources = manifest.part("source_sha256")
    rows += [[Code(path), Code(sources.text(path))] for path in sources]
    rows += [[label, Code(manifest.text(f"{label}_sha256"))] for label in ("tokenizer", "template")]
    rows += [[f"{name} split", Code(manifest.part("splits").part(name).text("sha256"))] for name in SPLITS]
    return Table("Hashes (sha256)", MANIFEST, ["What", "sha256"], rows, text_columns=2)
