"""Typed settings of a run, and every path that follows from them.

`config/default.yaml` holds every key with its comment, and other configs hold what differs (see `config_file`). Here only keys that
not every source has (`revision`, `packages`, `tasks`, `columns`) may be left out, and `model.name`, which follows from the path.
Unknown keys, wrong types and contradictions are errors, all reported together.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NUMERICS = os.environ.get("NUMERICS") or "fast"  # how this process computes; fixed once torch is imported
ASSETS_LOCK = Path("docker/assets.lock")
WHEELS = Path("data/raw/wheels")
RAW = Path("data/raw")
MODELS = Path("data/models")
PROCESSED = Path("data/processed")
REPORTS = Path("reports")
ARCHIVE = Path("archive")
SPLITS = ("train", "val", "test")
TRAINING_SECTIONS = {"seed", "numerics", "model", "lora", "train"}  # what decides the course of training
# Files of a model's folder that are copied to the adapter's; which of them exist depends on the tokenizer
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
BUILT_SOURCES = ("docstrings", "reasoning_gym")  # of data: built from locked wheels
DATA_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".xlsx")
PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")  # each may follow a data suffix
GLOB = re.compile(r"[*?\[]")
SPLIT_NAMES = {  # what people call the splits -> our names
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "val",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")

# What a column of a dataset can mean, and which of these make up the row's content
DataField = Literal[
    "prompt", "context", "completion", "system", "history", "messages", "tools", "label", "id", "group", "kind", "split"
]
CONTENT = {"prompt", "completion", "messages"}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def data_suffix(path: str | Path) -> str:
    """The suffix that says the format: ".csv" of mine.csv and of mine.csv.gz; "" if it is of no known format."""
    name = Path(path).name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    suffix = Path(name).suffix
    return suffix if suffix in DATA_SUFFIXES else ""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Section):
    """The base model: where it comes from and how it is loaded."""

    name: Name  # folder below data/models; if left out, the last part of `path`
    source: Literal["wheel", "hub", "local"]
    path: str = Field(min_length=1)  # package name in docker/assets.lock, hub id, or folder, by `source`
    revision: str | None = None  # hub only: the 40-digit commit
    dtype: Literal["auto", "float32", "bfloat16", "int8", "nf4"]  # what weights are kept in
    compute_dtype: Literal["auto", "float32", "bfloat16", "int8"]  # what they are multiplied in
    attn_implementation: Literal["auto", "eager", "sdpa"]

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_path(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and "name" not in settings and isinstance(settings.get("path"), str):
            return settings | {"name": settings["path"].rstrip("/").rpartition("/")[2]}
        return settings

    @model_validator(mode="before")
    @classmethod
    def _four_bits_were_a_switch(cls, settings: Any) -> Any:
        """Read configs from before `compute_dtype`: with `load_in_4bit`, `dtype` was that of the products."""
        if not isinstance(settings, dict) or not isinstance(settings.get("load_in_4bit"), bool):
            return settings
        settings = dict(settings)
        if settings.pop("load_in_4bit") and settings.get("dtype") != "nf4":
            if settings.get("compute_dtype", "auto") != "auto" or settings.get("dtype") == "int8":
                raise ValueError("model.load_in_4bit is an older name of model.dtype: nf4. Leave it out, and set that")
            settings |= {"dtype": "nf4", "compute_dtype": settings.get("dtype", "auto")}
        return settings

    @model_validator(mode="after")
    def _products_suit_the_weights(self) -> "Model":
        if self.compute_dtype == "int8" and self.dtype in ("float32", "bfloat16"):
            raise ValueError(
                f"model.compute_dtype: int8 multiplies weights that are kept in int8 or nf4, and model.dtype is {self.dtype}. "
                f"Set model.dtype to int8, nf4 or auto"
            )
        if (self.dtype, self.compute_dtype) == ("float32", "bfloat16"):
            raise ValueError(
                "model.compute_dtype: bfloat16 would round weights that model.dtype keeps in float32. Set model.dtype to bfloat16 "
                "or auto"
            )
        return self

    @model_validator(mode="after")
    def _revision_pins_a_hub_model(self) -> "Model":
        if self.source == "hub" and not COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                "model.revision must be the full 40-digit commit when model.source is hub, because what a name stands for can change"
            )
        if self.source != "hub" and self.revision is not None:
            raise ValueError("model.revision is only for model.source: hub")
        return self


class Lora(Section):
    """The adapter, in peft.LoraConfig's names (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] = Field(min_length=1)


def is_path(path: str) -> bool:
    """Whether this names a file with a data suffix, something that exists, or a glob."""
    return bool(data_suffix(path)) or Path(path).is_dir() or bool(GLOB.search(path))


# What to do with files that are not read: suffix -> advice
OTHER_FORMATS = {
    ".xls": "In the spreadsheet program, save it as .xlsx or .csv. ",
    ".ods": "In the spreadsheet program, save it as .xlsx or .csv. ",
    ".txt": "If it holds one JSON object a line or a table, rename it to .jsonl or .csv. ",
    ".zip": "Unpack it, and name the folder. ",
    ".tar": "Unpack it, and name the folder. ",
    ".tgz": "Unpack it, and name the folder. ",
    ".pkl": "A pickle can run code, so it is not read; write it as Parquet. ",
}


def unknown_format(path: str) -> str:
    """The message about a source that is nothing that can be read."""
    return (
        f"data.source must be {' or '.join(BUILT_SOURCES)}, a file of a known format, a folder, or a hub id (owner/name); it is {path}. "
        f"{OTHER_FORMATS.get(Path(path).suffix.lower(), '')}Files may end in {', '.join(DATA_SUFFIXES)}, and after that in "
        f"{', '.join(PACKED_SUFFIXES)}"
    )


class Data(Section):
    """The dataset: its source, its splits and the sequence limit."""

    source: str | list[str] | None = Field(
        min_length=1
    )  # a name of BUILT_SOURCES, files, a folder, a glob, or a hub id
    splits: dict[Literal["train", "val", "test"], str] = {}  # instead of a source: the user's own files of each split
    revision: str | None = None  # hub only: the 40-digit commit
    files: str | list[str] | None = None  # hub only: globs of the files to read
    encoding: str | None = None  # of text files, if it is not UTF-8 and they have no byte order mark
    packages: list[str] = []  # docstrings only: packages of docker/assets.lock
    tasks: dict[str, dict[str, Any]] = {}  # reasoning_gym only: generators and their settings
    columns: dict[
        DataField, str | None
    ] = {}  # what the user's columns mean, if detection is not enough; null: not used
    on_error: Literal["stop", "quarantine"]
    near_duplicate_threshold: float = Field(gt=0, le=1)  # Jaccard similarity; 1.0: only equal texts
    max_length: int = Field(ge=8)
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    max_train_examples: int = Field(ge=1)
    max_val_examples: int = Field(ge=1)
    max_test_examples: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("data.val_fraction + data.test_fraction must be below 1, or there is nothing to train on")
        if (self.source == "docstrings") != bool(self.packages):
            raise ValueError(
                f"data.packages goes only with data.source: docstrings, which needs it; the source is {self.source}"
            )
        if (self.source == "reasoning_gym") != bool(self.tasks):
            raise ValueError(
                f"data.tasks goes only with data.source: reasoning_gym, which needs it; the source is {self.source}"
            )
        unseeded = [name for name, settings in self.tasks.items() if not {"seed", "size"} <= set(settings)]
        if unseeded:
            raise ValueError(
                f"data.tasks: {', '.join(unseeded)} must set seed and size, or every run would have different questions"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _splits_are_a_source(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("splits") and "source" not in settings:
            return settings | {"source": None}
        return settings

    @model_validator(mode="after")
    def _source_is_known(self) -> "Data":
        if bool(self.splits) != (self.source is None):
            raise ValueError(
                "data.source and data.splits both say where the data is. Give one of them, and leave out the other"
            )
        if self.splits and "train" not in self.splits:
            raise ValueError(
                "data.splits must name a file for train; val and test are cut from it if they are left out"
            )
        unknown = [path for path in self.paths if not is_path(path) and not self.is_hub]
        if unknown:
            raise ValueError(unknown_format(unknown[0]))
        if self.is_hub and not COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                f"data.revision must be the full 40-digit commit when data.source is a hub id; there is no file or folder "
                f"{self.source}, so it is read as a hub id"
            )
        if not self.is_hub:
            for key in ("revision", "files"):
                if getattr(self, key) is not None:
                    raise ValueError(f"data.{key} is only for a hub id in data.source")
        return self

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            "".encode(name or "utf-8")
        except LookupError as error:
            raise ValueError("must be an encoding that Python knows, such as windows-1252 or gb18030") from error
        return name

    @model_validator(mode="after")
    def _columns_give_a_row(self) -> "Data":
        if self.source in BUILT_SOURCES:
            for key in ("columns", "encoding"):
                if getattr(self, key):
                    raise ValueError(f"data.{key} is for your own data; the source is {self.source}")
        named = [column for column in self.columns.values() if column is not None]
        if repeated := [column for column in named if named.count(column) > 1]:
            raise ValueError(f"data.columns gives the column {repeated[0]} two meanings")
        given = {field for field in CONTENT if self.columns.get(field) is not None}
        if given and given not in (CONTENT - {"messages"}, {"messages"}):
            raise ValueError(
                f"data.columns must name prompt and completion, or messages; it names {', '.join(sorted(given))}"
            )
        return self

    @property
    def paths(self) -> list[str]:
        """The files, folders and globs that the settings name, or the hub id; none for a built source."""
        if self.splits:
            return list(self.splits.values())
        if isinstance(self.source, list):
            return self.source
        return [] if self.source in BUILT_SOURCES else [self.source]

    @property
    def source_name(self) -> str:
        """What messages, manifest and report call the dataset."""
        return self.source if isinstance(self.source, str) else ", ".join(self.paths)

    @property
    def is_hub(self) -> bool:
        """Whether `source` is a dataset on the hub."""
        return isinstance(self.source, str) and bool(HUB_ID.fullmatch(self.source)) and not is_path(self.source)

    @property
    def names_content(self) -> bool:
        """Whether `columns` says where prompt and completion are, so that they need not be detected."""
        return any(self.columns.get(field) is not None for field in CONTENT)

    @property
    def dataset_dir(self) -> Path:
        """Where fetch puts a dataset from the hub."""
        return RAW / "datasets" / f"{self.source_name.replace('/', '--')}-{(self.revision or '')[:8]}"


class Train(Section):
    """Training, in transformers.TrainingArguments' names."""

    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=-1)
    per_device_train_batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    max_tokens: int = Field(ge=1)  # of one forward pass; the name is fairseq's
    fit: Literal["stop", "auto"]  # what to do if memory is short
    learning_rate: float = Field(gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"]
    warmup_steps: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    gradient_checkpointing: bool
    logging_steps: int = Field(ge=1)
    eval_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    save_total_limit: int = Field(ge=2)  # one more than the one that an interruption may leave incomplete

    @model_validator(mode="after")
    def _steps_fit(self) -> "Train":
        if self.max_steps == 0:
            raise ValueError("train.max_steps is 0; give a number of steps, or -1 to let num_train_epochs decide")
        for name in ("eval_steps", "save_steps"):
            if getattr(self, name) % self.logging_steps:
                raise ValueError(
                    f"train.{name} must be a multiple of train.logging_steps, so that the log of a resumed training is complete"
                )
        return self


class Evaluate(Section):
    """Scoring and generation on the test split."""

    batch_size: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)


class Sample(Section):
    """The answers shown in the report."""

    num_prompts: int = Field(ge=1)


class Config(Section):
    """All settings of one run."""

    run: Name
    seed: int = Field(ge=0, lt=2**32)  # what NumPy takes
    numerics: Literal["fast", "portable"]  # see compute/numerics.py
    model: Model
    data: Data
    lora: Lora
    train: Train
    evaluate: Evaluate
    sample: Sample

    @model_validator(mode="after")
    def _portable_is_float32(self) -> "Config":
        if self.numerics == "portable" and not {self.model.dtype, self.model.compute_dtype} <= {"auto", "float32"}:
            raise ValueError(
                "numerics: portable is for float32: set model.dtype and model.compute_dtype to float32 or auto"
            )
        return self

    @property
    def run_dir(self) -> Path:
        """Everything this run writes."""
        return Path("outputs") / self.run

    @property
    def model_dir(self) -> Path:
        """The base model, as fetch writes it."""
        return MODELS / self.model.name

    @property
    def adapter_dir(self) -> Path:
        """The trained adapter."""
        return self.run_dir / "adapter"

    def record_path(self, stage: str) -> Path:
        """A stage's record, which exists only once the stage has completed."""
        return self.run_dir / "stages" / f"{stage}.json"
