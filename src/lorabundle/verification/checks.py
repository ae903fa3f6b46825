"""What `make verify` checks, one function a check: each gives the differences that it finds."""

import contextlib
import json
import os
import re
import shutil
import stat
from collections import defaultdict
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.config_file import load_resolved
from lorabundle.core.files import (
    hash_paths,
    read_json,
    read_jsonl,
    sha256_bytes,
    sha256_file,
    to_json,
    to_jsonl,
)
from lorabundle.core.fingerprint import LISTING, listing_of, paths
from lorabundle.core.locks import read_lock
from lorabundle.evaluation.aggregate import MODELS, summarise
from lorabundle.evaluation.answer_scores import score_answers
from lorabundle.evaluation.samples import samples
from lorabundle.reporting.report_files import report_files, upper_part
from lorabundle.reporting.run_files import load_results
from lorabundle.submission.contents import (
    DOCUMENTS,
    OPTIONAL,
    RUN_FILES,
    SUMS,
    packed_contents,
    packed_paths,
    source_files,
)
from lorabundle.submission.finished_run import PACKED_STAGES
from lorabundle.training.model_card import model_card
from lorabundle.verification.differences import Difference, compare, compare_examples, compare_metrics

FOLDER = Path("outputs/.verify")  # a run's name cannot begin with a dot

SHIPPED = FOLDER / "shipped"

RERUN = {level: FOLDER / level for level in ("eval", "full")}  # where the stages run again

ADAPTER = "adapter/adapter_model.safetensors"

CARD = "adapter/README.md"

SETTINGS = "adapter/adapter_config.json"

KNOWN_FILES = {*RUN_FILES, *OPTIONAL, ADAPTER, CARD, SETTINGS, *(f"adapter/{name}" for name in config.TOKENIZER_FILES)}

LINE = re.compile(r"([0-9a-f]{64})  (.+)", re.DOTALL)

SPLIT = re.compile(rf"{config.PROCESSED}/({'|'.join(config.SPLITS)})/")

WRITTEN = ("outputs", "data/models", "data/processed", "reports", "archive")

SAME_SUM = 1e-9


def say(text: str) -> None:
    """Print a line as the stages' logs have them. Text from an archive can hold anything, a terminal's control codes too."""
    print("[verify] " + "".join(character if character.isprintable() else "?" for character in text), flush=True)


def read_sums(path: Path) -> dict[str, str]:
    """A file in `sha256sum`'s form: sha256 by path. Any other line, a comment too, is under the line itself."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text.removesuffix("\n").split("\n")  # and not at other characters that end lines for Python
    matches = [(LINE.fullmatch(line), line) for line in lines]
    return {match[2] if match else line: match[1] if match else "no sha256 and path" for match, line in matches}


def check_files(folder: Path) -> list[Difference]:
    """Every file against `SHA256SUMS`: none missing, none added, none changed."""
    listed = read_sums(folder / SUMS)
    found = hash_paths([folder])
    found = {Path(path).relative_to(folder).as_posix(): digest for path, digest in found.items()}
    found.pop(SUMS, None)
    names = sorted(listed.keys() | found.keys())
    say(f"hashes: {len(found)} files beside {SUMS}")
    return [
        Difference(name, listed.get(name, f"no such file in {SUMS}"), found.get(name, "no such file"))
        for name in names
        if listed.get(name) != found.get(name)
    ]


def check_statements(folder: Path, run: str) -> list[Difference]:
    """What the run's own files say of hashes, against the files and against each other.

    `RESULTS.sha256` and the stage records name inputs and outputs, also such as are not in the archive (splits, weights): of these
    all must say the same.
    """
    said: dict[str, dict[str, str]] = defaultdict(dict)  # path -> {where it is said: sha256}
    outputs: set[str] = set()
    result: list[Difference] = []
    run_dir = folder / "outputs" / run
    for path, digest in read_sums(run_dir / LISTING).items():
        if not path.endswith("above its section This run"):  # a part of a file; compared with the report
            said[path][LISTING] = digest
    for record in sorted((run_dir / "stages").glob("*.json")):
        content = json.loads(record.read_text(encoding="utf-8"))
        command = ["python", "-m", f"lorabundle.{record.stem}", "--config"]
        result += compare(f"stages/{record.name}.command", command, content["command"][:4])
        for role in ("inputs", "outputs"):
            for path, digest in content[role].items():
                said[path][f"stages/{record.name} ({role})"] = digest
        outputs |= content["outputs"].keys()
    result += _unrecorded(folder, run, outputs)
    for path, statements in said.items():
        file = folder / path
        place, expected = next(iter(statements.items()))
        if is_plain(path) and file.is_file():
            place, expected = "the archive", sha256_file(file)
        for where, digest in statements.items():
            if digest != expected:
                result.append(Difference(f"{path}, in {where}", f"{expected} as in {place}", digest))
    say(f"hashes: what {LISTING} and the stage records say of {len(said)} files")
    return result


def _unrecorded(folder: Path, run: str, outputs: set[str]) -> list[Difference]:
    """Files beside source and documents that no record has among its outputs, or that no run has, and outputs that are not there."""
    run_dir = f"outputs/{run}"
    known = {SUMS} | DOCUMENTS | {path.as_posix() for path in source_files(folder)}
    own = {f"{run_dir}/config.yaml"} | {
        f"{run_dir}/{name}" for stage in PACKED_STAGES for name in (f"stages/{stage}.json", f"logs/{stage}.log")
    }
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = {path for path in paths if path not in known}
    expected = own | {
        path for path in outputs if path.removeprefix(f"{run_dir}/") in KNOWN_FILES or path.startswith("reports/")
    }
    return [
        Difference(
            path,
            *(("a file", "no such file") if path in expected else ("no such file: it is none of the run's", "a file")),
        )
        for path in sorted(expected ^ found)
    ]


def is_plain(path: str) -> bool:
    """Whether a path that an archive names stays below the folder that it is joined to."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def check_sources(folder: Path) -> list[Difference]:
    """Code, configs and locks against this checkout's, and which files are programs.

    A config that only one of the two has is the author's or the checker's own: no code reads it, and the run's settings are
    in its `config.yaml`.
    """
    shipped, own = ({path.as_posix() for path in source_files(root)} for root in (folder, Path()))
    all_shipped = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    programs = [
        {name for name in names if (root / name).stat().st_mode & stat.S_IXUSR}
        for root, names in ((Path(), own), (folder, all_shipped))
    ]
    say(f"sources: {len(shipped | own)} files beside this checkout's")
    result = []
    for name in sorted(shipped | own):
        digests = [sha256_file(root / name) if (root / name).is_file() else "no such file" for root in (Path(), folder)]
        if Path(name).match("config/*.yaml") and "no such file" in digests:
            say(f"sources: {name} is on one side alone, and not compared")
        elif digests[0] != digests[1]:
            result.append(Difference(f"{name}, of this checkout and of the archive", *digests))
    for name in sorted(programs[0] ^ programs[1]):
        modes = ["a program" if name in names else "no program" for names in programs]
        result.append(Difference(f"{name}, of this checkout and of the archive", *modes))
    return result


def check_values(folder: Path, run: str) -> list[Difference]:
    """All that follows from other values: scores from answers, metrics from examples, samples from examples.

    And the form of the JSON files: they are as this project writes them, since of a key that stands twice every program may see
    another value.
    """
    with contextlib.chdir(folder):
        run_config = load_resolved(Path("outputs", run, "config.yaml"))
        rows = {path: read_jsonl(path, "") for path in sorted(run_config.run_dir.glob("*.jsonl"))}
        records = run_config.record_path("*")
        objects = sorted([*run_config.run_dir.glob("*.json"), *records.parent.glob(records.name)])
        values = {path: read_json(path, "") for path in objects}
        made = {path: to_json(value) for path, value in values.items()}
        made |= {path: "".join(map(to_jsonl, lines)) for path, lines in rows.items()}
        result = [
            Difference(f"{path}, written again", sha256_bytes(text.encode()), sha256_file(path))
            for path, text in made.items()
            if path.read_bytes() != text.encode()
        ]
    metrics, manifest = (values[run_config.run_dir / name] for name in ("metrics.json", "manifest.json"))
    examples, shown = (rows[run_config.run_dir / name] for name in ("examples.jsonl", "samples.jsonl"))
    references = [example["reference"] for example in examples]
    for model in MODELS:
        answers = [example[model] for example in examples]
        for example, scores in zip(examples, score_answers([a["text"] for a in answers], references), strict=True):
            found = {key: example[model][key] for key in scores}
            result += compare(f"examples.jsonl, {example['id']}.{model}", scores, found, relative=SAME_SUM)
    facts = {"schema": 1, "run": run_config.run, "seed": run_config.seed}
    facts |= {"dataset": {"source": manifest["source"], "splits": manifest["splits"]}}
    facts |= {key: metrics[key] for key in ("warnings", "baselines")}  # these take the splits and the model
    result += compare("metrics.json", facts | summarise(examples, run_config.seed), metrics, relative=SAME_SUM)
    result += compare("samples.jsonl", samples(examples, run_config.sample.num_prompts), shown, relative=SAME_SUM)
    say(f"report: scores and metrics computed from the answers to {len(examples)} examples")
    return result


def check_adapter(folder: Path, run: str) -> list[Difference]:
    """What lies beside the adapter's weights and is believed when it is loaded: model card, settings, tokenizer.

    And the packages that trained it, which are the locked ones.
    """
    with contextlib.chdir(folder):
        run_config = load_resolved(Path("outputs", run, "config.yaml"))
        run_dir, lora = run_config.run_dir, run_config.lora
        names = ("manifest.json", "provenance.json", "environment.json", SETTINGS)
        manifest, provenance, environment, settings = (read_json(run_dir / name, "") for name in names)
        losses = [row["eval_loss"] for row in read_jsonl(run_dir / "train_log.jsonl", "") if "eval_loss" in row]
        made = {CARD: sha256_bytes(model_card(run_config, manifest, losses[-1]).encode())}
        made |= {f"adapter/{n}": h for n, h in provenance["files"].items() if n in config.TOKENIZER_FILES}
        found = {f"adapter/{file.name}": sha256_file(file) for file in run_config.adapter_dir.iterdir()}
        locked = read_lock(config.RUNTIME_LOCK)
    asked = lora.model_dump() | {"base_model_name_or_path": run_config.model_dir.as_posix()}
    asked["target_modules"] = sorted(set(lora.target_modules))
    packages = environment["packages"]
    say(f"report: {len(made) + 1} files beside the adapter's weights")
    return [
        *compare(
            "sha256 of", made, {name: digest for name, digest in found.items() if name not in (ADAPTER, SETTINGS)}
        ),
        *compare(SETTINGS, asked, {key: settings.get(key) for key in asked}),
        *compare("environment.json.packages", {name: locked[name][0] for name in packages}, packages),
    ]


def check_report(folder: Path, run: str) -> list[Difference]:
    """The report against the JSON that it shows."""
    result = []
    with contextlib.chdir(folder):
        run_config = load_resolved(Path("outputs", run, "config.yaml"))
        results = load_results(run_config)
        listing = run_config.run_dir / LISTING
        files = report_files(run_config, results, sha256_file(listing))
        for name, content in files.items():
            path = config.REPORTS / name
            found = sha256_file(path) if path.is_file() else "no such file"
            if sha256_bytes(content) != found:
                result.append(Difference(f"{path}, rendered again", sha256_bytes(content), found))
        shown = (file.relative_to(config.REPORTS) for file in config.REPORTS.rglob("*") if file.is_file())
        for path in sorted({path.as_posix() for path in shown if path.parts[0] != "reference"} - files.keys()):
            result.append(Difference(f"{config.REPORTS / path}, rendered again", "no such file", "a file"))
        splits = {
            path: digest for path, digest in results.records["preprocess"]["outputs"].items() if SPLIT.match(path)
        }
        shipped = [path for path in paths(run_config) if not path.is_relative_to(config.PROCESSED)]
        text = listing_of(splits | hash_paths(shipped), upper_part(run_config, results))
        if listing.read_text(encoding="utf-8") != text:
            result.append(Difference(f"{LISTING}, made again", sha256_bytes(text.encode()), sha256_file(listing)))
    say(f"report: {len(files)} files rendered")
    return result


def check_documents(folder: Path, run: str) -> list[Difference]:
    """Every file against what `make archive` makes of the run's files and the source: the documents at the top above all."""
    found = {Path(path).relative_to(folder).as_posix(): digest for path, digest in hash_paths([folder]).items()}
    with contextlib.chdir(folder):
        run_config = load_resolved(Path("outputs", run, "config.yaml"))
        made = packed_contents(run_config, packed_paths(run_config))
    expected = {name: sha256_bytes(data) for name, data in made.items()}
    say(f"report: {len(expected)} files as `make archive` makes them")
    return [
        Difference(f"{name}, made again", expected.get(name, "no such file"), found.get(name, "no such file"))
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def lay_out(run: str, level: str) -> None:
    """Make a folder in which the stages run again: the run's config, and links to what it reads of this checkout.

    Evaluation alone is given the shipped adapter, and the record of its training that it is checked against.
    """
    rerun, run_dir = RERUN[level], Path("outputs", run)
    shutil.rmtree(rerun, ignore_errors=True)
    (rerun / run_dir / "stages").mkdir(parents=True)
    (rerun / "data").mkdir()
    shutil.copyfile(SHIPPED / run_dir / "config.yaml", rerun / "config.yaml")
    run_config = load_resolved(rerun / "config.yaml")
    own = [
        name
        for name in (run_config.data.source, run_config.model.path)
        if not any(Path(name).is_relative_to(folder) for folder in WRITTEN)
    ]
    for name in ("docker", "data/raw", *own):
        target = rerun / name
        if is_plain(name) and Path(name).exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(name, target.parent))
    if level == "eval":
        shutil.copytree(SHIPPED / run_dir / "adapter", rerun / run_dir / "adapter")
        shutil.copyfile(SHIPPED / run_dir / "stages/train.json", rerun / run_dir / "stages/train.json")


def check_rerun(run: str, level: str) -> list[Difference]:
    """What the stages gave when they ran again, against what was shipped: exactly with portable numerics, else within tolerances."""
    shipped, found = (root / "outputs" / run for root in (SHIPPED, RERUN[level]))
    run_config: Config = load_resolved(shipped / "config.yaml")

    def both(name: str) -> list[dict]:
        return [read_json(folder / name, "") for folder in (shipped, found)]

    result = [
        difference
        for name in ("provenance.json", "manifest.json")  # the model and the splits, which no machine makes otherwise
        for difference in compare(name, *both(name))
    ]
    metrics = both("metrics.json")
    names = ("metrics.json", "examples.jsonl")
    if level == "full":
        names += (LISTING, ADAPTER, "samples.jsonl")
    same = [name for name in names if sha256_file(shipped / name) == sha256_file(found / name)]
    say(f"{level}: equal to the byte: {', '.join(same) or 'none'}")
    if run_config.numerics == "portable":
        result += compare("metrics.json", *metrics)
        listings = [read_sums(folder / LISTING) for folder in (shipped, found)] if level == "full" else [{}, {}]
        result += compare("sha256 of", *listings)
        if "examples.jsonl" not in same:
            result.append(
                Difference("examples.jsonl", *(sha256_file(folder / "examples.jsonl") for folder in (shipped, found)))
            )
    else:
        trained = level == "full" and ADAPTER not in same
        if level == "full":
            # The weights alone, and with them the loss that the card has, may be others
            may_differ = {ADAPTER, CARD} if trained else set()
            beside = [
                {f"adapter/{file.name}": sha256_file(file) for file in (folder / "adapter").iterdir()}
                for folder in (shipped, found)
            ]
            result += compare("sha256 of", *({n: h for n, h in one.items() if n not in may_differ} for one in beside))
        examples = [read_jsonl(folder / "examples.jsonl", "") for folder in (shipped, found)]
        result += compare_metrics(*metrics, trained) + compare_examples(*examples, trained)
    for name in ("base", "finetuned"):
        losses = [values["models"][name]["loss"] for values in metrics]
        say("{}: test loss, {}: {:.6f} shipped, {:.6f} found".format(level, name, *losses))
    return result
