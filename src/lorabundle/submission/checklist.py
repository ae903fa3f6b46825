"""`CHECKLIST.md`: reproducibility questions, answered from the run's own files.

Two lists that reviewers use: the ML code completeness checklist of Papers with Code, and the items of the NeurIPS paper checklist,
in our words. An answer is Yes only if a file of this run shows it. What only a person can know is left to the author.
"""

from dataclasses import dataclass
from pathlib import Path

from lorabundle.reporting.render import code_span, fill
from lorabundle.submission import licences
from lorabundle.submission.finished_run import FinishedRun
from lorabundle.submission.licences import Package
from lorabundle.submission.reproduce import own_files

NAME = "CHECKLIST.md"
TEMPLATE = Path(__file__).parent / "templates" / f"{NAME}.jinja"
YES, NO, NOT_APPLICABLE, AUTHOR = "Yes", "No", "Not applicable", "For the author to answer"


@dataclass(frozen=True)
class Item:
    """A question with its answer and the reason, as Markdown. Text from files is in code spans."""

    title: str
    question: str
    answer: str
    why: str


def document(run: FinishedRun, packages: list[Package]) -> str:
    """The page, for this run."""
    lists = {
        "ML code completeness": completeness(run, packages),
        "NeurIPS paper checklist": neurips(run, packages),
    }
    answers = [item.answer for items in lists.values() for item in items]
    counts = {answer: answers.count(answer) for answer in (YES, NO, NOT_APPLICABLE, AUTHOR)}
    return fill(TEMPLATE, run=run.config.run, counts=counts, lists=lists)


def completeness(run: FinishedRun, packages: list[Package]) -> list[Item]:
    """The five items of the ML code completeness checklist."""
    config = run.config
    command = {stage: code_span(" ".join(record["command"])) for stage, record in run.records.items()}
    weights = run.of_run("adapter/adapter_model.safetensors")
    own_model = config.model.source == "local"
    base = "is from a local folder and is not in the archive" if own_model else "is fetched and checked by `make fetch`"
    return [
        Item(
            "Dependencies",
            "Are the dependencies listed?",
            YES,
            f"`{run.runtime_lock}` and `docker/openmp.lock` pin {len(packages)} packages with the sha256 of each file. "
            f"`make image` installs only these.",
        ),
        Item(
            "Training code",
            "Is the training code included?",
            YES,
            f"`src/lorabundle/train.py`, run as {command['train']}.",
        ),
        Item(
            "Evaluation code",
            "Is the evaluation code included?",
            YES,
            f"`src/lorabundle/evaluate.py`, run as {command['evaluate']}.",
        ),
        Item(
            "Pre-trained models",
            "Are the trained weights included?",
            NO if own_model else YES,
            f"The adapter is {code_span(weights)} ({run.sizes[weights] / 1e6:.1f} MB). The base model, "
            f"{code_span(run.provenance.text('name'))}, {base}.",
        ),
        Item(
            "README with results and commands",
            "Is there a table of results, with the commands that produce them?",
            YES,
            "`reports/results.md` has this run's results, and `REPRODUCE.md` has the commands. The table in `README.md` is of the "
            "default run, not of this one.",
        ),
    ]


def neurips(run: FinishedRun, packages: list[Package]) -> list[Item]:
    """The sixteen items of the NeurIPS paper checklist."""
    return [
        _claims(run),
        Item(
            "Limitations",
            "Are the limitations discussed?",
            YES,
            f"`reports/results.md` says that this is one run with one seed. `docs/trust.md` says how the splits were searched for "
            f"leaks, and what that search misses. The numbers come from "
            f"{run.manifest.part('splits').part('test').number('examples', '{:,}')} test examples of one dataset. The author "
            f"must discuss what this means for a paper's conclusions.",
        ),
        Item(
            "Theory",
            "Do theoretical results come with assumptions and proofs?",
            NOT_APPLICABLE,
            "There are no theoretical results.",
        ),
        _reproducibility(run),
        _access(run),
        _settings(run),
        _significance(run),
        _compute(run),
        Item(
            "Code of ethics",
            "Does the work conform to the NeurIPS code of ethics?",
            AUTHOR,
            "No file of the run shows this.",
        ),
        Item(
            "Broader impacts",
            "Are good and bad effects on society discussed?",
            AUTHOR,
            "No file of the run discusses them.",
        ),
        Item(
            "Safeguards",
            "Are there safeguards against misuse of what is released?",
            NO,
            "The adapter comes without filters or terms of use. The author must judge whether it needs any.",
        ),
        _licences(run, packages),
        Item(
            "New assets",
            "Are new assets documented?",
            YES,
            f"The adapter has a model card ({code_span(run.of_run('adapter/README.md'))}), and the dataset's splits have a data "
            f"card ({code_span(run.of_run('manifest.json'))}). The author must choose the adapter's licence.",
        ),
        _people("Crowdsourcing", "Are the instructions to human participants, and their pay, given?", run),
        _people("Review board", "Was research with human subjects approved by a review board?", run),
        Item(
            "Use of language models",
            "Is the use of language models described, where the method depends on it?",
            YES,
            f"The method fine-tunes one: {code_span(run.provenance.text('name'))}, described in `reports/results.md` and "
            f"{code_span(run.of_run('provenance.json'))}. The author must declare any other use of language models.",
        ),
    ]


def _claims(run: FinishedRun) -> Item:
    delta, test = run.metrics.part("delta").part("loss"), run.metrics.part("sign_test")
    return Item(
        "Claims",
        "Do the claims match the results?",
        YES,
        f"The report claims only what it computes from `metrics.json`: fine-tuning changes the test loss by "
        f"{delta.number('mean', '{:+.4f}')} nats a token (95 % interval {delta.interval('ci95', '{:+.4f}')}), and "
        f"{test.number('improved', '{:,}')} of {run.metrics.part('models').part('base').number('examples', '{:,}')} test "
        f"examples improve. The author must check claims that are made elsewhere.",
    )


def _missing(run: FinishedRun) -> str:
    files = list(own_files(run))
    return ", ".join(map(code_span, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _reproducibility(run: FinishedRun) -> Item:
    question = "Is everything included that is needed to reproduce the main results?"
    if own_files(run):
        why = f"Files of the author's own are not in the archive and cannot be fetched: {_missing(run)}."
        return Item("Experimental reproducibility", question, NO, f"{why} `REPRODUCE.md` has their hashes.")
    across = {
        "portable": "on any x86-64 CPU with AVX2",
        "fast": "on the same CPU model with the same number of threads, and within the stated tolerances elsewhere",
    }
    why = (
        f"`REPRODUCE.md` has the commands. Code, settings, packages, model and data are pinned by hash or commit. The results "
        f"(fingerprint {code_span(run.fingerprint[:16])}…) are the same {across[run.config.numerics]}."
    )
    return Item("Experimental reproducibility", question, YES, why)


def _access(run: FinishedRun) -> Item:
    title, question = "Open access to data and code", "Can a reader get data and code?"
    if own_files(run):
        return Item(title, question, NO, f"The code is in the archive; these files are not: {_missing(run)}.")
    if "hub" in (run.config.model.source, "hub" if run.config.data.is_hub else ""):
        why = "The code is in the archive. Model or data come from a hub at a pinned commit. No file shows whether these repositories are public."
        return Item(title, question, AUTHOR, why)
    why = "The code is in the archive. Model and data are made from packages that `make fetch` downloads and checks by sha256."
    return Item(title, question, YES, why)


def _settings(run: FinishedRun) -> Item:
    train, lora = run.config.train, run.config.lora
    splits = ", ".join(
        f"{split.number('examples', '{:,}')} {name}" for name, split in run.manifest.part("splits").items()
    )
    across = run.manifest.part("duplicates").part("after").part("across")
    leaks = sum(pairs for column in across.values() for pairs in column.values())
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return Item(
        "Experimental setting",
        "Are splits, hyperparameters and optimiser given?",
        YES,
        f"{code_span(run.of_run('config.yaml'))} has every setting: {splits} examples; LoRA of rank {lora.r}; AdamW with "
        f"learning rate {train.learning_rate:g} ({train.lr_scheduler_type}), {batch} rows a step, epochs: {train.num_train_epochs:g}"
        f"{f', at most {train.max_steps} steps' if train.max_steps > 0 else ''}; seed {run.config.seed}. "
        f"Pairs of equal or similar texts in two different splits: {leaks} ({code_span(run.of_run('manifest.json'))}). No file "
        f"shows how the values were chosen.",
    )


def _significance(run: FinishedRun) -> Item:
    delta, bootstrap = run.metrics.part("delta").part("loss"), run.metrics.part("bootstrap")
    question = "Do results come with error bars or tests, and does the text say what they cover?"
    if delta["ci95"] == []:
        why = "The test split is a single group, so there is no interval."
        return Item("Statistical significance", question, NO, why)
    return Item(
        "Statistical significance",
        question,
        YES,
        f"Changes come with 95 % intervals (paired bootstrap over {bootstrap.number('units', '{:,}')} {bootstrap.text('unit')}s, "
        f"{bootstrap.number('resamples', '{:,}')} resamples; loss {delta.interval('ci95', '{:+.4f}')}) and a sign test. They "
        f"cover the choice of test examples. They do not cover training: this archive has one run with one seed.",
    )


def _compute(run: FinishedRun) -> Item:
    environment, records = run.environment, run.records.values()
    seconds, peak = sum(r["seconds"] for r in records), max(r["peak_rss_bytes"] for r in records)
    return Item(
        "Compute resources",
        "Are the machine, its memory and the time given?",
        YES,
        f"CPU {code_span(environment.text('cpu'))}, {environment['threads']} threads of {environment['cores']} cores, "
        f"{environment.number('memory_bytes', '{:.1f}', 1e-9)} GB of memory; all stages took {seconds / 60:.1f} minutes (training "
        f"{run.records['train']['seconds'] / 60:.1f}) and at most {peak / 1e9:.2f} GB. Earlier runs are not "
        f"recorded.",
    )


def _licences(run: FinishedRun, packages: list[Package]) -> Item:
    data = licences.data_licences(run)
    unknown = [name for name, licence in data.items() if not licence]
    unknown += [run.provenance.text("name")] if not run.model_licence else []
    unknown += [package.name for package in packages if not package.licences]
    why = f"`LICENSES.md` lists the licences of the model, {len(data)} data sources and {len(packages)} packages, as they state them"
    if unknown:
        why += f". These state no licence: {', '.join(map(code_span, unknown))}"
    question = "Are the existing assets that were used named, with their licences?"
    return Item("Licences of existing assets", question, NO if unknown else YES, f"{why}.")


def _people(title: str, question: str, run: FinishedRun) -> Item:
    if run.manifest.part("format").text("file") == "built":
        return Item(title, question, NOT_APPLICABLE, "The data was made from software packages. No people took part.")
    return Item(title, question, AUTHOR, "No file shows how the dataset was made.")
