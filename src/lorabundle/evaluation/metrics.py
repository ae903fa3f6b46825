"""Every metric of `metrics.json`, once.

From this table follow what `aggregate` computes, the report's columns and their explanation, the tolerances and `seeds.md`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Tolerance(NamedTuple):
    """The largest difference measured between two machines; `tolerances.allowed` allows twice as much.

    `evaluated`: both evaluated the same weights. `trained`: each trained an adapter and evaluated it.
    """

    evaluated: float
    trained: float


class FollowsFrom(NamedTuple):
    """Instead of a tolerance: the metric is computed from another one, so only the other one is compared."""

    key: str


class Change(NamedTuple):
    """How the report shows fine-tuned minus base, which has an interval: `unit`, and number format after multiplying by `factor`."""

    unit: str
    format: str
    higher_is_better: bool
    factor: int = 1


@dataclass(frozen=True)
class Metric:
    """One metric of a model.

    Attributes:
        key: its name in metrics.json.
        heading: of its column in the report.
        format: of its number in the report.
        explanation: what it is, in the words that the report uses below its table.
        mean_over: what it is a mean over. The more of them, the less it differs between machines.
        tolerance: by how much it may differ between machines.
        column: the value of each example in examples.jsonl that is summed and divided by `mean_over`; empty if the metric is
            computed in another way (see `aggregate.model_summary`).
        by_kind: whether it is also given for each kind of example.
        needs_verifier: only tasks with right answers have it. In metrics.json it is an object with the interval.
        seeds_format: of its number in seeds.md; empty if that does not show it.
        change: how fine-tuned minus base is shown; None if that is not computed.
    """

    key: str
    heading: str
    format: str
    explanation: str
    mean_over: Literal["tokens", "examples"]
    tolerance: Tolerance | FollowsFrom
    column: str = ""
    by_kind: bool = False
    needs_verifier: bool = False
    seeds_format: str = ""
    change: Change | None = None


# The tolerances are from runs that differ as much as fast numerics allow: one in bfloat16 with AVX-512, one in float32 with the
# libraries limited to AVX2, so that every product and every sum differs. AMD EPYC Zen 4, two threads, one seed, default.yaml
# (2026-11-23 and -24) and reasoning.yaml (2026-11-24, learning rate and steps as there); the larger difference of the two configs
# counts. Kinds of examples and the ends of intervals are included, each divided by the factor of `tolerances.widened`. An adapter
# that was trained again is also evaluated again, so `trained` is at least `evaluated`. Measured with tests/bench/tolerances.py.
_METRICS = (
    Metric(
        key="loss",
        heading="Test loss",
        format="{:.4f}",
        explanation="nats per response token, the end-of-turn token included",
        mean_over="tokens",
        tolerance=Tolerance(0.0072, 0.0161),  # default.yaml: 0.0028 and 0.0039
        column="nats",
        by_kind=True,
        seeds_format="{:.4f}",
        change=Change("nats a token", "{:+.4f}", higher_is_better=False),
    ),
    Metric(
        key="perplexity",
        heading="Test perplexity",
        format="{:,.2f}",
        explanation="the exponential of the test loss",
        mean_over="tokens",
        tolerance=FollowsFrom("loss"),
        seeds_format="{:.2f}",
    ),
    Metric(
        key="token_accuracy",
        heading="Token accuracy",
        format="{:.1%}",
        explanation="share of the response tokens that the model ranks first",
        mean_over="tokens",
        tolerance=Tolerance(0.0038, 0.0044),
        column="correct",
        by_kind=True,
        seeds_format="{:.4f}",
        change=Change("percentage points", "{:+.2f}", higher_is_better=True, factor=100),
    ),
    Metric(
        key="rouge1",
        heading="ROUGE-1",
        format="{:.3f}",
        explanation="words in common with the reference (F1, 0 to 1)",
        mean_over="examples",
        tolerance=Tolerance(0.0085, 0.0093),
        column="rouge1",
    ),
    Metric(
        key="rouge2",
        heading="ROUGE-2",
        format="{:.3f}",
        explanation="the same for pairs of words",
        mean_over="examples",
        tolerance=Tolerance(0.0040, 0.0093),
        column="rouge2",
    ),
    Metric(
        key="rougeL",
        heading="ROUGE-L",
        format="{:.3f}",
        explanation="the same for the longest common sequence of words",
        mean_over="examples",
        tolerance=Tolerance(0.0129, 0.0272),  # default.yaml: 0.0069 and 0.0093
        column="rougeL",
        by_kind=True,
        seeds_format="{:.4f}",
        change=Change("F1", "{:+.4f}", higher_is_better=True),
    ),
    Metric(
        key="bleu",
        heading="BLEU",
        format="{:.1f}",
        explanation="sequences of one to four words in common, over all answers (0 to 100)",
        mean_over="tokens",
        tolerance=Tolerance(0.40, 2.56),  # default.yaml: 0.40 and 0.49
    ),
    Metric(
        key="chrf",
        heading="chrF",
        format="{:.1f}",
        explanation="sequences of characters in common, over all answers (0 to 100)",
        mean_over="tokens",
        tolerance=Tolerance(0.48, 0.61),
        seeds_format="{:.2f}",
    ),
    Metric(
        key="length_ratio",
        heading="Length ratio",
        format="{:.2f}",
        explanation="words and punctuation of all answers, divided by those of all references",
        mean_over="tokens",
        tolerance=Tolerance(0.150, 0.150),  # a base model that does not stop; an adapter: 0.009 and 0.026
    ),
    Metric(
        key="exact_match",
        heading="Exact match",
        format="{:.1%}",
        explanation="share of answers that equal the reference",
        mean_over="examples",
        tolerance=Tolerance(0.0102, 0.0396),  # default.yaml, which has hardly any: 0
        column="exact_match",
        by_kind=True,
        seeds_format="{:.4f}",
    ),
    Metric(
        key="stop_rate",
        heading="Stop rate",
        format="{:.1%}",
        explanation="share of answers that the model ended by itself",
        mean_over="examples",
        tolerance=Tolerance(0.0367, 0.0367),
        column="stopped",
        seeds_format="{:.4f}",
    ),
    Metric(
        key="repetition_rate",
        heading="Repetition",
        format="{:.1%}",
        explanation="mean share of an answer's four-word sequences that it already had before",
        mean_over="examples",
        tolerance=Tolerance(0.0043, 0.0164),
        column="repetition_rate",
    ),
    Metric(
        key="accuracy",
        heading="Accuracy",
        format="{:.1%}",
        explanation="share of right answers, with a 95 % interval (Wilson)",
        mean_over="examples",
        tolerance=Tolerance(0.0140, 0.0423),  # only reasoning.yaml has it
        by_kind=True,
        needs_verifier=True,
        seeds_format="{:.4f}",
    ),
)
METRICS = {metric.key: metric for metric in _METRICS}
