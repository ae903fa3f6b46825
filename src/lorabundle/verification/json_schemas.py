"""The schemas of the run's JSON files: which keys each has, and values of which type.

A file of its schema cannot make a check, the report or a document fail with an exception that is not ours. More keys than these are
allowed here: the checks of values find them. `None` as a default only means that a key may be left out.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lorabundle.core.config import COMMIT, HUB_ID
from lorabundle.submission.finished_run import PACKED_STAGES
from lorabundle.verification.unpacked import SETTINGS


def _interval(ends: list[float]) -> list[float]:
    if len(ends) not in (0, 2):
        raise ValueError("[low, high], or [] for a single group")
    return ends


def _utc(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError("a time in UTC")
    return text


def _words(text: str) -> str:
    if not text.split():
        raise ValueError("a text with a word")
    return text


Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hashes = dict[Annotated[str, Field(min_length=1)], Sha256]
Interval = Annotated[list[float], AfterValidator(_interval)]
Time = Annotated[str, AfterValidator(_utc)]


class Schema(BaseModel):
    """Base of every schema. Nothing is converted: the text "1" is not taken for a number."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Rate(Schema):
    """A share of right answers."""

    correct: Count
    examples: Size
    rate: float
    ci95: Interval


class Scores(Schema):
    """All metrics of one model."""

    loss: float
    tokens: Size
    examples: Size
    __pydantic_extra__: dict[str, float | Rate]


class Models(Schema):
    """Both models."""

    base: Scores
    finetuned: Scores


class Change(Schema):
    """Fine-tuned minus base, of one metric."""

    mean: float
    ci95: Interval


class Kind(Schema):
    """Metrics of the examples of one kind."""

    examples: Size
    models: Models
    delta: dict[str, Change]
    majority: Rate = None


class Bootstrap(Schema):
    """How intervals were computed."""

    resamples: Count
    seed: Count
    unit: str
    units: Count


class SignTest(Schema):
    """Counts of examples whose loss changed, and the p-value."""

    improved: Count
    worsened: Count
    unchanged: Count
    p_value: float


class Formats(Schema):
    """What weights were kept and multiplied in, and what all else was computed in."""

    dtype: str
    compute_dtype: str
    activation_dtype: str


class BothFormats(Schema):
    """Those of training and of evaluation."""

    training: Formats
    evaluation: Formats


class Metrics(Schema):
    """metrics.json."""

    warnings: list[str]
    baselines: dict[str, dict[str, float]]
    models: Models
    delta: dict[str, Change]
    bootstrap: Bootstrap
    sign_test: SignTest
    kinds: dict[str, Kind]
    majority: Rate = None
    labels: list[str] = None
    formats: BothFormats = None  # left out if each is one ordinary dtype


class DataFormat(Schema):
    """How a dataset was read."""

    file: str
    shape: str
    columns: dict[str, str]
    files: list[str]


class Quarantined(Schema):
    """Rows that could not be used."""

    rows: Count
    causes: dict[str, Count]
    file: str | None = None


class Degrees(Schema):
    """Numbers of pairs of texts that are equal, and that are near."""

    exact: Count
    near: Count


class PairEnd(Schema):
    """One of two similar examples."""

    id: str
    split: str


class Pair(Schema):
    """Two similar examples in two splits."""

    column: str
    similarity: float
    a: PairEnd
    b: PairEnd


class AfterCleaning(Schema):
    """Pairs that are left within one split and across two."""

    within: dict[str, Degrees]
    across: dict[str, Degrees]


class Note(Schema):
    """Something that was changed or not used, and in how many rows."""

    note: str
    rows: Count


class Segment(Schema):
    """A part of a row's text that is learnt or not."""

    text: str
    learnt: bool


class Duplicates(Schema):
    """Pairs of similar texts before and after cleaning."""

    threshold: float
    before: dict[str, Degrees]
    after: AfterCleaning
    remaining: list[Pair]


class Histogram(Schema):
    """A distribution of lengths."""

    min: float
    median: float
    p95: float
    max: float
    edges: list[float]
    counts: list[Count]


def _bins(histogram: Histogram) -> Histogram:
    edges = histogram.edges
    if len(edges) != len(histogram.counts) + 1 or len(edges) < 2 or edges != sorted(set(edges)):
        raise ValueError("edges that rise, one more than there are counts")
    return histogram


Bins = Annotated[Histogram, AfterValidator(_bins)]


class Lengths(Schema):
    """Lengths of one split, in tokens."""

    prompt: Bins
    response: Bins


class Split(Schema):
    """Sizes of one split."""

    examples: Count
    groups: Count
    tokens: Count
    response_tokens: Count
    kinds: dict[str, Count]
    sha256: Sha256


class Splits(Schema):
    """All splits."""

    train: Split
    val: Split
    test: Split
    __pydantic_extra__: dict[str, Split]


class Manifest(Schema):
    """manifest.json."""

    source: str
    format: DataFormat
    source_sha256: Hashes
    licences: dict[str, str]
    tokenizer_sha256: Sha256
    template_sha256: Sha256
    records: Count
    quarantined: Quarantined
    dropped: dict[str, Count]
    own_splits: list[str]
    notes: list[Note]
    warnings: list[str]
    truncated: dict[str, Count]
    duplicates: Duplicates
    lengths: dict[str, Lengths]
    example: list[Segment]
    splits: Splits


class Origin(Schema):
    """Where a model comes from: a wheel, a hub repository or a folder."""

    wheel: str = None
    wheel_sha256: Sha256 = None
    gguf: str = None
    gguf_sha256: Sha256 = None
    repo_id: Annotated[str, Field(pattern=f"^{HUB_ID.pattern}$")] = None
    revision: Annotated[str, Field(pattern=f"^{COMMIT.pattern}$")] = None
    folder: str = None


class Provenance(Schema):
    """provenance.json."""

    name: Annotated[str, Field(min_length=1)]
    parameters: float
    origin: Origin
    files: Hashes


class Probe(Schema):
    """Measured speeds of the CPU."""

    gflops: dict[str, float]
    int8_kernel: str
    attention_ms: dict[str, float]
    dtype: str
    attn_implementation: str


class Environment(Schema):
    """environment.json."""

    cpu: str
    cores: Size
    memory_bytes: float
    threads: Size
    numerics: str
    dtype: str
    compute_dtype: str
    activation_dtype: str
    attn_implementation: str
    probe: Probe
    engine: str
    image: str
    commit: str
    platform: str
    python: str
    packages: dict[str, str]
    licences: dict[str, list[str]]


class Turn(Schema):
    """A message of a prompt."""

    role: str
    content: str


class Answer(Schema):
    """One model's answer to an example, and its scores."""

    nats: float
    correct: Count
    text: str
    stopped: bool
    __pydantic_extra__: dict[str, float | bool]


class Majority(Schema):
    """The most frequent training answer of the example's kind, and its score."""

    text: str
    score: float


class Example(Schema):
    """A line of examples.jsonl."""

    id: str
    group: str
    kind: str
    prompt: list[Turn]
    reference: Annotated[str, AfterValidator(_words)]
    tokens: Size
    base: Answer
    finetuned: Answer
    majority: Majority = None


class Sample(Schema):
    """A line of samples.jsonl."""

    picked: str
    id: str
    kind: str
    prompt: list[Turn]
    reference: str
    loss_change: float
    base: str
    base_stopped: bool
    finetuned: str
    finetuned_stopped: bool


class LogEntry(Schema):
    """A line of train_log.jsonl."""

    step: Count
    loss: float = None
    eval_loss: float = None


class Record(Schema):
    """A stage's record."""

    command: Annotated[list[str], Field(min_length=5)]  # python -m lorabundle.<stage> --config FILE
    commit: str
    inputs: Hashes
    outputs: Hashes
    started_at: Time
    ended_at: Time
    seconds: float
    peak_rss_bytes: float


# The files in the run's folder that hold one JSON object, and those that hold one on each line, with their schemas
OBJECTS: dict[str, Any] = {
    "metrics.json": Metrics,
    "manifest.json": Manifest,
    "provenance.json": Provenance,
    "environment.json": Environment,
    SETTINGS: dict[str, Any],
    **{f"stages/{stage}.json": Record for stage in PACKED_STAGES},
}
ROWS: dict[str, Any] = {
    "examples.jsonl": Example,
    "samples.jsonl": Sample,
    "train_log.jsonl": LogEntry,
}
