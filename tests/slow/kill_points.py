"""Kill a training at many of the moments that matter, run it again, and compare the adapter with that of an uninterrupted run.

The moments are counted first, in an uninterrupted run: before each forward and backward pass, validation and write, with each
file of a checkpoint half written, before each rename and removal. Each killed run is a new process that SIGKILLs itself, forked
from this one, which has loaded the libraries. Prints a line of JSON for each kill, {"moment", "adapter"}; the first line is of a
run without a kill.

Run as: python -m tests.slow.kill_points NUMBER FIRST STEP KEY=VALUE ...   (in a project whose smoke config has been preprocessed)

Of the NUMBER moments it takes every STEPth from the FIRST on, which counts from 0.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import peft.peft_model
import torch
from transformers import TrainerState

from lorabundle import train
from lorabundle.core import stage
from lorabundle.core.files import sha256_file
from lorabundle.training.trainer import LoraTrainer

WATCHED: list[tuple[object, str, int | None]] = [
    (LoraTrainer, "training_step", None),
    (LoraTrainer, "evaluate", None),
    (torch, "save", 1),
    (peft.peft_model, "safe_save_file", 1),
    (TrainerState, "save_to_json", 1),
    (train.checkpoints, "seal", None),
    (os, "replace", None),
    (shutil, "rmtree", None),
    (train, "save_adapter", None),
    (train, "reload_in_new_process", None),
]


class Watch:
    """Counts moments, and ends the process at one of them."""

    def __init__(self, last: int | None):
        self.last, self.moments = last, []
        for owner, name, path_argument in WATCHED:
            setattr(owner, name, self._watched(name, getattr(owner, name), path_argument))

    def _watched(self, name: str, function: Callable, path_argument: int | None) -> Callable:
        def call(*args, **kwargs):
            self._pass(f"before {name}")
            result = function(*args, **kwargs)
            if path_argument is not None:
                self._pass(f"{Path(args[path_argument]).name} half written", args[path_argument])
            return result

        return call

    def _pass(self, moment: str, torn: str | None = None) -> None:
        if self.last == len(self.moments):
            if torn:
                os.truncate(torn, os.path.getsize(torn) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments.append(moment)


def run(overrides: list[str], last: int | None = None) -> list[str]:
    """Train in a new process, up to a moment or to the end; returns the moments that were passed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        watch = Watch(last)
        code = stage.run_stage("train", train.run, ["--config", "config/smoke.yaml", "--set", *overrides])
        os.write(writer, json.dumps(watch.moments).encode())
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as passed:
        moments = json.loads(passed.read() or "[]")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != (0 if last is None else -signal.SIGKILL):
        sys.exit(f"kill_points: the training ended with {status}")
    return moments


def forget(run_dir: Path) -> None:
    """Remove what a training leaves."""
    for name in ("checkpoints", "adapter"):
        shutil.rmtree(run_dir / name, ignore_errors=True)


def chosen(moments: list[str], number: int) -> list[int]:
    """Indices of at least `number` moments: one of each kind, then others that are spread evenly."""
    places: dict[str, list[int]] = {}
    for index, moment in enumerate(moments):
        places.setdefault(moment, []).append(index)
    result = {same[len(same) // 2] for same in places.values()}
    for part in range(number):
        if len(result) < number:
            result.add(part * (len(moments) - 1) // (number - 1))
    return sorted(result)


def main(number: int, first: int, step: int, overrides: list[str]) -> None:
    """Kill at `number` moments, or a few more; or at a part of them."""
    run_dir = Path("outputs/smoke")
    train.reload_in_new_process = lambda *_: 0.0  # it has its own tests, and takes longer than everything else
    run(overrides)  # leaves files that later runs find unchanged and do not write again
    forget(run_dir)
    moments = run(overrides)
    adapter = run_dir / "adapter/adapter_model.safetensors"
    print(json.dumps({"moment": "none", "adapter": sha256_file(adapter)}), flush=True)
    for last in chosen(moments, number)[first::step]:
        forget(run_dir)
        run(overrides, last)
        run(overrides)
        moment = f"{last + 1} of {len(moments)}: {moments[last]}"
        print(json.dumps({"moment": moment, "adapter": sha256_file(adapter)}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4:])
