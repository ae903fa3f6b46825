"""The answers that the report shows: base, fine-tuned and reference side by side, picked from what evaluation generated.

Reads `outputs/<run>/examples.jsonl`; writes `outputs/<run>/samples.jsonl`. Three picks: the first test examples (their order follows
from the hashes of their ids, so nobody has chosen them), those whose loss fell most, and those whose loss rose most.

Run as: python -m lorabundle.sample --config config/default.yaml
"""

import sys

from lorabundle.core.config import Config
from lorabundle.core.files import read_jsonl, write_jsonl
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.evaluation.samples import samples


def run(run_config: Config) -> Artifacts:
    """Pick the samples."""
    source, target = (run_config.run_dir / name for name in ("examples.jsonl", "samples.jsonl"))
    examples = read_jsonl(source, "Run `make eval` first.")
    write_jsonl(target, samples(examples, run_config.sample.num_prompts))
    return Artifacts(inputs=[source], outputs=[target])


if __name__ == "__main__":
    sys.exit(run_stage("sample", run))
