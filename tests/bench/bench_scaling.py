"""Time and peak memory of preprocess and train on a sixteenth, a quarter and all of the data, with one thread and with two.

The data are the records that the run's preprocess built from packages; training takes the same share of `EXAMPLES`. Each stage
is a new process in a new project. Writes `outputs/bench/scaling.json` and `scaling.md`.

Run as: make bench (left out by QUICK=1)
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.files import read_json, write_json

SHARES = (16, 4, 1)  # of the data: every 16th record, every 4th, all
EXAMPLES = 640
THREADS = (1, 2)
SETTINGS = ["run=scaling", "data.source=data.jsonl", "data.packages=[]", "data.max_val_examples=20"]
SETTINGS += ["train.eval_steps=1000", "train.save_steps=1000"]
OUTPUT = Path("outputs/bench")  # no large library is imported, because a child's peak memory starts at this process's


def project(folder: Path, run_config: config.Config) -> None:
    """A folder that stages can run in, with the run's base model."""
    for name in ("docker", "data/models", "data/raw/wheels"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(Path(name).resolve())
    (folder / "outputs/scaling").mkdir(parents=True)
    shutil.copy(run_config.run_dir / "provenance.json", folder / "outputs/scaling")


def run_stage(stage: str, folder: Path, arguments: argparse.Namespace, overrides: list[str], threads: int) -> dict:
    """Run a stage; returns its record, which has its seconds and its peak memory."""
    command = [sys.executable, "-m", f"lorabundle.{stage}", "--config", str(arguments.config.resolve())]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path("src").resolve())}
    finished = subprocess.run(
        [*command, "--set", *arguments.set, *SETTINGS, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        sys.exit(f"bench: error: {stage} failed: {finished.stderr}")
    return read_json(folder / f"outputs/scaling/stages/{stage}.json", "")


def markdown(rows: list[dict]) -> str:
    """The measurements as a table."""
    lines = [
        "| rows | preprocess (s) | peak (GB) | training examples | threads | train (s) | peak (GB) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        preprocess, train = row["preprocess"], row["train"]
        lines.append(
            f"| {row['rows']:,} | {preprocess['seconds']:.0f} | {preprocess['peak_rss_bytes'] / 1e9:.2f} | {row['examples']} "
            f"| {row['threads']} | {train['seconds']:.0f} | {train['peak_rss_bytes'] / 1e9:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, arguments.set)
    lines = (config.RAW / f"{run_config.data.source}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    probed = read_json(Path("outputs/.probe.json"), "Run bench_training first.")
    # Not what a probe on one thread would choose
    same = [f"model.{key}={probed[key]}" for key in ("dtype", "attn_implementation")]
    measured = []
    for share in SHARES:
        for threads in THREADS:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                project(folder, run_config)
                (folder / "data.jsonl").write_text("".join(islice(lines, 0, None, share)), encoding="utf-8")
                overrides = [*same, f"data.max_train_examples={EXAMPLES // share}"]
                records = {
                    stage: run_stage(stage, folder, arguments, overrides, threads) for stage in ("preprocess", "train")
                }
                manifest = read_json(folder / "outputs/scaling/manifest.json", "")
            kept = {
                stage: {key: record[key] for key in ("seconds", "peak_rss_bytes")} for stage, record in records.items()
            }
            examples = manifest["splits"]["train"]["examples"]
            measured.append({"rows": manifest["records"], "examples": examples, "threads": threads} | kept)
            print(f"[bench] {measured[-1]}", flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / "scaling.json", {"schema": 1, "measured": measured})
    (OUTPUT / "scaling.md").write_text(markdown(measured), encoding="utf-8")
    print(markdown(measured))


if __name__ == "__main__":
    main()
