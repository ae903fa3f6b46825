"""Show how a dataset is read, and what training on it would take, without training.

Reads the base model's tokenizer and the configured dataset; writes nothing but a scratch folder below `outputs/<run>/`, which it
removes. Prints how the files were read, what the columns mean, three rows as the model sees them with the learnt tokens marked (in
colour on a terminal, else in double brackets), lengths, what would be left out, the sizes of the splits, and the estimated time.

Run as: make inspect DATA=path/to/mine.csv, which calls
python -m lorabundle.inspect --config config/default.yaml --set data.source=path/to/mine.csv run=mine
"""

import logging
import os
import sys
from collections.abc import Iterator

from lorabundle.compute import cpu_probe, precision
from lorabundle.core.command import command_parser, run_command
from lorabundle.core.config import SPLITS, Config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.errors import RowError
from lorabundle.core.files import read_json, scratch_dir
from lorabundle.data.manifest import distribution
from lorabundle.data.pipeline import Prepared, listed, prepare
from lorabundle.data.preview import Segment, segments, shortened
from lorabundle.data.quarantine import Quarantine
from lorabundle.model.architecture import load_tokenizer
from lorabundle.model.prompts import IGNORE_INDEX
from lorabundle.reporting.render import visible

NUM_ROWS = 3
MOST_CHARACTERS = 600  # of a segment that is shown
# Share of the CPU's rate of matrix products that the complete stage reaches, its start and validation included: the default run's
# 177,563 tokens in 420 to 472 s at 433 GFLOP/s (docs/performance.md) are 0.47 to 0.53. A LoRA step costs four operations for each
# weight and token, two forward and two back.
EFFICIENCY, OPERATIONS = 0.5, 4
COLOUR, PLAIN = ("\033[30;42m", "\033[0m"), ("[[", "]]")


def page(
    run_config: Config, prepared: Prepared, quarantine: Quarantine, tokenizer, marks: tuple[str, str]
) -> Iterator[str]:
    """The lines to print.

    Args:
        run_config: of the run.
        prepared: its dataset.
        quarantine: the rows that cannot be used.
        tokenizer: of the base model.
        marks: what to print before and after a learnt part.
    """
    yield from ("", "Columns", *columns(prepared))
    where = "in colour" if marks == COLOUR else f"in {marks[0]} {marks[1]}"
    yield from ("", f"Rows as the model sees them; what is learnt is {where}")
    for row in prepared.splits["train"].select(range(min(NUM_ROWS, len(prepared.splits["train"])))):
        max_length = run_config.data.max_length
        shown = segments(tokenizer, row["input_ids"][:max_length], row["labels"][:max_length])
        yield from (f"--- {row['id']}", marked(shortened(shown, MOST_CHARACTERS), marks).rstrip("\n"))
    yield from ("", "Tokens in a row", *lengths(run_config, prepared))
    yield from ("", "Rows", *rows(run_config, prepared, quarantine))
    yield from ("", "Training", *training(run_config, prepared))


def columns(prepared: Prepared) -> Iterator[str]:
    """How sure the shape is, and what each column is used for."""
    found = prepared.source.detection
    if found is None:
        yield f"  built by this project: {prepared.source.format['shape']}"
        return
    yield f"  shape {found.shape}: {found.fitting:,} of {found.rows:,} rows have every column that it needs"
    for name, column in found.columns.items():
        yield f"  {name:<12}{plain(column)}"
    for column, count in found.unused.items():
        yield f"  {'not used':<12}{plain(column)} ({count:,} rows have a value)"
    for note in prepared.notes.listed():
        if not note["note"].startswith("column "):
            yield f"  {'note':<12}{plain(note['note'])}: {note['rows']:,}"


def marked(parts: list[Segment], marks: tuple[str, str]) -> str:
    """A row's text with its learnt parts between marks."""
    return "".join(f"{marks[0]}{plain(text)}{marks[1]}" if learnt else plain(text) for text, learnt in parts)


def plain(text: str) -> str:
    """A text that cannot control the terminal; its line breaks and tabs stay."""
    return visible(text, keep="\n\t")


def lengths(run_config: Config, prepared: Prepared) -> Iterator[str]:
    """Distribution of the lengths of prompts and responses, and how many rows are cut."""
    labels = [row for split in prepared.splits.values() for row in split["labels"]]
    prompts = [row.count(IGNORE_INDEX) for row in labels]
    responses = [len(row) - prompt for row, prompt in zip(labels, prompts, strict=True)]
    yield f"  {'':<10}{'min':>8}{'median':>8}{'95 %':>8}{'max':>8}"
    for name, values in (("prompt", prompts), ("response", responses)):
        of = distribution(values, [])
        yield f"  {name:<10}{of['min']:>8,}{of['median']:>8,.0f}{of['p95']:>8,}{of['max']:>8,}"
    limit = run_config.data.max_length
    yield f"  cut at data.max_length ({limit:,}): {sum(len(row) > limit for row in labels):,} of {len(labels):,} rows"


def rows(run_config: Config, prepared: Prepared, quarantine: Quarantine) -> Iterator[str]:
    """How many rows go where, and why some go nowhere."""
    yield f"  read        {prepared.num_rows:,}"
    if quarantine.rows:
        yield f"  not usable  {len(quarantine.rows):,} ({listed(quarantine.causes())})"
        yield from (f"              {plain(message)}" for message in quarantine.messages)
    for cause, count in prepared.dropped.items():
        if count:
            yield f"  left out    {count:,} {cause.replace('_', ' ')}"
    for name in SPLITS:
        how = "as your data says" if name in prepared.own_splits else "cut by groups of similar rows"
        split = prepared.splits[name]
        yield f"  {name:<12}{len(split):,} rows in {len(set(split['group'])):,} groups ({how})"
    yield from (f"  warning     {warning}" for warning in prepared.warnings)


def training(run_config: Config, prepared: Prepared) -> Iterator[str]:
    """The estimated time of training, and what it is estimated from."""
    train, settings = prepared.splits["train"], run_config.train
    tokens = sum(min(len(ids), run_config.data.max_length) for ids in train["input_ids"])
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps = -(-len(train) // rows_per_step) * settings.num_train_epochs
    if settings.max_steps > 0:
        steps = settings.max_steps
    trained = tokens / len(train) * min(rows_per_step, len(train)) * steps
    parameters = read_json(run_config.model_dir / "provenance.json", "Run `make fetch` first.")["parameters"]
    dtype = precision.resolve(run_config).compute_dtype
    rate = cpu_probe.decision()["gflops"][dtype]
    seconds = trained * OPERATIONS * parameters / (rate * 1e9 * EFFICIENCY)
    yield f"  {steps:,.0f} steps, {trained:,.0f} tokens: about {duration(seconds)} on this machine"
    yield f"  (estimated: {parameters / 1e6:,.0f} M parameters, {dtype} products at {rate:,.0f} GFLOP/s; evaluation comes on top)"
    yield from ("", "To train: the same command with `make all` instead of `make inspect`.")


def duration(seconds: float) -> str:
    """A rough time in words, rounded as an estimate should be: "40 seconds", "9 minutes", "2.5 hours"."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def main(argv: list[str] | None = None) -> int:
    """Inspect the configured dataset. Returns 2 if `make all` would stop at rows that cannot be used."""
    parser = command_parser("inspect", __doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)

    def work() -> None:
        run_config = load_config(arguments.config, arguments.set)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
        logging.getLogger().handlers[0].addFilter(
            lambda entry: entry.name == "lorabundle.preprocess" and entry.levelno == logging.INFO
        )
        tokenizer = load_tokenizer(run_config.model_dir)
        is_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        with scratch_dir(run_config.run_dir / ".inspect") as scratch:
            quarantine = Quarantine(scratch / "quarantine.jsonl", "quarantine")
            prepared = prepare(run_config, tokenizer, quarantine, scratch)
            for line in page(run_config, prepared, quarantine, tokenizer, COLOUR if is_terminal else PLAIN):
                print(line)
        if quarantine.rows and run_config.data.on_error == "stop":
            raise RowError(
                f"`make all` would stop: {len(quarantine.rows):,} of {prepared.num_rows:,} rows cannot be used. Fix or remove them, or "
                f'leave them out: SET="data.on_error=quarantine".'
            )

    return run_command("inspect", work, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
