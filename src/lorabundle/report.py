"""Render a finished run: `reports/results.md`, `reports/results.html` and the figures. Every number is read from a file.

Reads, below `outputs/<run>/`, `metrics.json`, `examples.jsonl`, `samples.jsonl`, `train_log.jsonl`, `manifest.json`,
`provenance.json`, `environment.json` and the stage records. Writes `reports/results.md`, `reports/results.html` (one file,
figures included), `reports/figures/*.{svg,png}`, and `outputs/<run>/RESULTS.sha256`. Both show the same page (`view`), so they cannot disagree.
A missing value is an error, and then nothing is written. All that may differ between two equal runs stands in the last
section, "This run".

Run as: python -m lorabundle.report --config config/default.yaml
"""

import sys

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_write, sha256_bytes
from lorabundle.core.fingerprint import LISTING, listing, paths
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.reporting.files import OBJECTS, RECORDED, ROWS, load_results, report_files, upper_part


def run(run_config: Config) -> Artifacts:
    """Render the report."""
    results = load_results(run_config)
    listed = listing(run_config, upper_part(run_config, results))
    files = report_files(run_config, results, sha256_bytes(listed.encode()))
    for name, content in files.items():  # only now, so that an error above leaves no half of a report
        atomic_write(config.REPORTS / name, content)
    atomic_write(run_config.run_dir / LISTING, listed)
    read = [run_config.run_dir / name for name in (*(f"{name}.json" for name in OBJECTS), *ROWS.values())]
    return Artifacts(
        inputs=[*dict.fromkeys([*read, *map(run_config.record_path, RECORDED), *paths(run_config)])],
        outputs=[run_config.run_dir / LISTING, *(config.REPORTS / name for name in files)],
    )


if __name__ == "__main__":
    sys.exit(run_stage("report", run))
