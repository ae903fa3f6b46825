"""A finished run made by hand: four test examples of two kinds, with numbers that can be added in the head."""

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser

from lorabundle.core.config import PROCESSED, SPLITS, Config
from lorabundle.core.files import atomic_write, write_json, write_jsonl
from lorabundle.core.locks import installed_locks, read_lock
from lorabundle.core.strict_json import Fields
from lorabundle.reporting.run_files import OBJECTS, RECORDED, ROWS, Results
from lorabundle.training.environment import licences
from tests.conftest import ROOT


def _answer(nats: float, text: str, stopped: bool = True) -> dict:
    rouge = {"rouge1": 0.1, "rouge2": 0.05, "rougeL": 0.09}
    scores = {"chrf": 12.0, "exact_match": False, "repetition_rate": 0.125}
    return {"nats": nats, "correct": 5, "text": text, "stopped": stopped} | rouge | scores


def examples() -> list[dict]:
    """Four examples of 10 tokens: three improve and one worsens."""
    losses = {"e1": (20.0, 10.0), "e2": (20.0, 12.0), "e3": (22.0, 15.0), "e4": (18.0, 23.0)}
    return [
        {
            "id": name,
            "group": name,
            "kind": "sum" if name == "e4" else "word",
            "prompt": [{"role": "user", "content": f"Question {name}?"}],
            "reference": f"Reference {name}",
            "tokens": 10,
            "base": _answer(base, f"Base {name}", stopped=False),
            "finetuned": _answer(finetuned, f"Fine-tuned {name}"),
        }
        for name, (base, finetuned) in losses.items()
    ]


def sample(example: dict, picked: str) -> dict:
    """An example as samples.jsonl has it."""
    row = {key: example[key] for key in ("id", "kind", "prompt", "reference")} | {"picked": picked}
    row["loss_change"] = (example["finetuned"]["nats"] - example["base"]["nats"]) / example["tokens"]
    for model in ("base", "finetuned"):
        row |= {model: example[model]["text"], f"{model}_stopped": example[model]["stopped"]}
    return row


def samples() -> list[dict]:
    """One sample of each pick; the first one has two turns before the answer."""
    first, gain, _, loss = examples()
    first["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    return [sample(first, "first"), sample(gain, "largest gain"), sample(loss, "largest loss")]


def _model(loss: float, perplexity: float, tokens: int = 40, accuracy: float = 0.5) -> dict:
    scores = {"loss": loss, "perplexity": perplexity, "tokens": tokens, "examples": tokens // 10}
    scores |= {"token_accuracy": accuracy, "rouge1": 0.1, "rouge2": 0.05, "rougeL": 0.09, "bleu": 3.21, "chrf": 12.34}
    return scores | {"exact_match": 0.0, "stop_rate": 0.25, "length_ratio": 1.5, "repetition_rate": 0.125}


def metrics() -> dict:
    """Base loss (20 + 20 + 22 + 18) / 40 = 2, fine-tuned (10 + 12 + 15 + 23) / 40 = 1.5."""
    word = {"base": _model(62 / 30, 7.9, 30), "finetuned": _model(37 / 30, 3.43, 30, 0.6)}
    total = {"base": _model(1.8, 6.05, 10), "finetuned": _model(2.3, 9.97, 10)}
    return {
        "schema": 1,
        "warnings": [],
        "baselines": {
            "uniform": {"loss": 10.8027, "perplexity": 49152.0},
            "unigram": {"loss": 7.1, "perplexity": 1211.97, "token_accuracy": 0.05},
        },
        "models": {"base": _model(2.0, 7.389), "finetuned": _model(1.5, 4.482, accuracy=0.575)},
        "delta": {
            "loss": {"mean": -0.5, "ci95": [-0.9, -0.1]},
            "token_accuracy": {"mean": 0.075, "ci95": [0.01, 0.12]},
            "rougeL": {"mean": 0.0, "ci95": [-0.02, 0.02]},
        },
        "bootstrap": {"resamples": 10000, "seed": 42, "unit": "group", "units": 4},
        "sign_test": {"improved": 3, "worsened": 1, "unchanged": 0, "p_value": 0.625},
        "kinds": {
            "word": {"examples": 3, "models": word, "delta": {"loss": {"mean": -0.8333, "ci95": [-1.0, -0.7]}}},
            "sum": {"examples": 1, "models": total, "delta": {"loss": {"mean": 0.5, "ci95": []}}},
        },
    }


def manifest() -> dict:
    """A dataset with bad rows, duplicates, and a pair that is in two splits."""

    def pairs(*counts: int) -> dict:
        return {
            "prompt": dict(zip(("exact", "near"), counts, strict=False)),
            "completion": {"exact": counts[2], "near": 0},
        }

    def histogram(median: float) -> dict:
        return {"min": 2, "median": median, "p95": 19.5, "max": 20, "edges": [0, 10, 20, 30], "counts": [3, 1, 0]}

    split = {"examples": 4, "groups": 4, "tokens": 80, "response_tokens": 40, "kinds": {"word": 3, "sum": 1}}
    return {
        "schema": 1,
        "source": "data/mine.jsonl",
        "format": {
            "file": "jsonl",
            "shape": "alpaca",
            "columns": {"prompt": "instruction", "completion": "output"},
            "files": ["data/mine.jsonl: one JSON value a line, UTF-8"],
        },
        "source_sha256": {"data/mine.jsonl": "a" * 64},
        "licences": {"mine": "CC0-1.0"},
        "tokenizer_sha256": "b" * 64,
        "template_sha256": "c" * 64,
        "records": 20,
        "quarantined": {"rows": 2, "causes": {"empty_completion": 2}, "file": "outputs/smoke/quarantine.jsonl"},
        "dropped": {"exact_duplicate": 3, "near_duplicate": 1, "over_split_limit": 2},
        "own_splits": [],
        "notes": [{"note": "column url not used", "rows": 9}],
        "warnings": [],
        "example": [{"text": "Question <b>", "learnt": False}, {"text": "Answer ` [[1]]", "learnt": True}],
        "truncated": {"train": 1, "val": 0, "test": 0},
        "duplicates": {
            "threshold": 0.8,
            "before": pairs(5, 7, 6),
            "after": {"within": pairs(0, 1, 2), "across": pairs(0, 1, 0)},
            "remaining": [
                {
                    "column": "prompt",
                    "similarity": 0.93,
                    "a": {"id": "e1", "split": "test"},
                    "b": {"id": "t7", "split": "train"},
                }
            ],
        },
        "lengths": {
            name: {"prompt": histogram(median), "response": histogram(8)}
            for name, median in {"train": 10, "val": 11, "test": 12.5}.items()
        },
        "splits": {
            name: split | {"sha256": digit * 64} for name, digit in {"train": "1", "val": "2", "test": "3"}.items()
        },
    }


@cache
def installed_licences() -> dict[str, list[str]]:
    """What the locked packages that are installed here state."""
    return {name: licences(name) for lock in installed_locks("x86_64") for name in read_lock(ROOT / lock)}


def run_files() -> dict[str, dict | list]:
    """Every file that the report reads, by its name below the run's folder."""
    environment = {
        "cpu": "Some CPU",
        "cores": 2,
        "memory_bytes": 8e9,
        "threads": 2,
        "numerics": "fast",
        "dtype": "float32",
        "compute_dtype": "float32",
        "activation_dtype": "float32",
    }
    rates = {"float32": 175.0, "bfloat16": 380.0, "int8": 420.0}
    environment |= {"attn_implementation": "eager", "probe": {"gflops": rates, "int8_kernel": "int_mm"}}
    environment["probe"] |= {
        "attention_ms": {"eager": 2.0, "sdpa": 5.0},
        "dtype": "bfloat16",
        "attn_implementation": "eager",
    }
    environment |= {"engine": "venv", "image": "", "commit": "abc", "platform": "Linux", "python": "3.11.2"}
    train_log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.4}]
    return {
        "metrics.json": metrics(),
        "manifest.json": manifest(),
        "provenance.json": {"name": "tiny", "parameters": 1e6, "origin": {"folder": "data/models/mine"}},
        "environment.json": environment | {"packages": {"torch": "2.13.0"}, "licences": dict(installed_licences())},
        "examples.jsonl": examples(),
        "samples.jsonl": samples(),
        "train_log.jsonl": train_log,
        **{f"stages/{stage}.json": {"seconds": 1.5, "peak_rss_bytes": 2e9} for stage in RECORDED},
    }


def results() -> Results:
    """The run's files as the report reads them."""
    files = run_files()
    objects = {name: Fields(files[file], file) for name, file in OBJECTS.items()}
    rows = {name: [Fields(row, file) for row in files[file]] for name, file in ROWS.items()}
    records = {stage: Fields(files[f"stages/{stage}.json"], stage) for stage in RECORDED}
    return Results(**objects, **rows, records=records)


def write_run(config: Config, files: dict[str, dict | list]) -> None:
    """Write a run's files as its stages would leave them."""
    for split in SPLITS:
        atomic_write(PROCESSED / split / "data.arrow", f"{split} rows")
    if "manifest.json" in files:
        write_json(PROCESSED / "manifest.json", files["manifest.json"])
    atomic_write(config.adapter_dir / "adapter_model.safetensors", "weights")
    for name, content in files.items():
        (write_jsonl if isinstance(content, list) else write_json)(config.run_dir / name, content)


class Document(HTMLParser):
    """What a browser would see: elements with their attributes, the cells of each table, the text of each block."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}  # by tag
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in ("meta", "br", "img", "hr", "link"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def attributes(self, name: str) -> Iterator[str]:
        """Every value of an attribute."""
        return (attrs[name] for _, attrs in self.elements if name in attrs)
