"""Render a finished run: `reports/results.md`, `reports/results.html` and the figures. Every number is read from a file.

Reads, below `outputs/<run>/`, `metrics.json`, `examples.jsonl`, `samples.jsonl`, `train_log.jsonl`, `manifest.json`,
`provenance.json`, `environment.json` and the stages' records. Writes `reports/results.md`, `reports/results.html` (one file,
figures included), `reports/figures/*.{svg,png}` and `outputs/<run>/RESULTS.sha256`. Markdown and HTML show the same page, so they
cannot disagree. If a value is missing, the report stops with an error and writes nothing. Everything that may differ between two
equal runs is in the last section, "This run".

Run as: python -m lorabundle.report --config config/default.yaml
"""

import sys

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_write, sha256_bytes
from lorabundle.core.fingerprint import LISTING, listing, paths
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.reporting.report_files import report_files, upper_part
from lorabundle.reporting.run_files import input_paths, load_results


def run(run_config: Config) -> Artifacts:
    """Render the report."""
    results = load_results(run_config)
    listed = listing(run_config, upper_part(run_config, results))
    files = report_files(run_config, results, sha256_bytes(listed.encode()))
    for name, content in files.items():  # only now, so that an error above leaves no incomplete report
        atomic_write(config.REPORTS / name, content)
    atomic_write(run_config.run_dir / LISTING, listed)
    return Artifacts(
        inputs=[*dict.fromkeys([*input_paths(run_config), *paths(run_config)])],  # each once
        outputs=[run_config.run_dir / LISTING, *(config.REPORTS / name for name in files)],
    )


if __name__ == "__main__":
    sys.exit(run_stage("report", run))
