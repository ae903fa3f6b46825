"""Portable numerics on other CPUs: the same training and evaluation natively and under emulation, with different numbers of threads.

Needs qemu-user (Debian's package); an emulated process takes minutes, most of them to load torch, transformers and TRL.
"""

import hashlib
import os
import shutil
import subprocess
import sys

from tests.conftest import ROOT, TINY, run_stage

CPUS = {
    "native, 1 thread": ([], "1"),
    "native, 2 threads": ([], "2"),
    "Haswell": (["qemu-x86_64", "-cpu", "Haswell"], "2"),  # Intel, 2013: AVX2, nothing newer
    "EPYC": (["qemu-x86_64", "-cpu", "EPYC"], "2"),  # AMD, 2017
}
if os.environ.get("QUICK"):
    del CPUS["EPYC"]
OVERRIDES = [*TINY, "numerics=portable", "train.num_train_epochs=1"]
# Both stages in one process, because the imports take long
SCRIPT = f"""
import sys
from lorabundle import evaluate, train
from lorabundle.core import stage
evaluate.check_plausible = lambda *_: []  # which refuses the tiny model: its weights are random
arguments = ["--config", "config/smoke.yaml", "--set", *{OVERRIDES!r}]
sys.exit(stage.run_stage("train", train.run, arguments) or stage.run_stage("evaluate", evaluate.run, arguments))
"""


def test_training_and_evaluation_give_the_same_bytes_on_every_cpu(tiny_project, tmp_path_factory):
    """The adapter's files (its model card has the validation loss), all that was measured on each example, and the metrics."""
    for stage in ("fetch", "preprocess"):
        run_stage(stage, *OVERRIDES, cwd=tiny_project)
    started, results = {}, {}
    for cpu, (emulator, threads) in CPUS.items():
        folder = tmp_path_factory.mktemp("cpu") / "project"
        shutil.copytree(tiny_project, folder)
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NUMERICS": "portable", "OMP_NUM_THREADS": threads}
        command = [*emulator, sys.executable, "-c", SCRIPT]
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        started[cpu] = (process, folder)
    for cpu, (process, folder) in started.items():
        assert process.wait() == 0, (folder / "output").read_text()
        run = folder / "outputs/tiny"
        files = [*sorted((run / "adapter").iterdir()), run / "examples.jsonl", run / "metrics.json"]
        results[cpu] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        names = ("adapter_model.safetensors", "examples.jsonl", "metrics.json")
        print(f"{cpu}: {', '.join(f'{name} {results[cpu][name]}' for name in names)}")
    assert len(results[cpu]) == 8
    assert all(hashes == results[cpu] for hashes in results.values()), results
