"""Tasks with right answers: questions that `reasoning-gym` generates, and its verifiers that mark an answer.

The package is read from its hash-pinned wheel and not installed, since much of what it asks for can only be built with a C
compiler and serves other tasks than those used. Python imports from the wheel directly; of the package's own folders only the
modules that a task names are run (their `__init__` files would import every task and all that those need).

Stojanovski et al. 2025, "Reasoning Gym", arXiv 2505.24760.
"""

import importlib
import sys
import types
import zipfile
from pathlib import Path

from lorabundle.core.errors import ConfigError
from lorabundle.core.locks import locked_wheels

SOURCE = "reasoning_gym"  # data.source
PACKAGE = "reasoning-gym"  # in docker/assets.lock

Tasks = dict[str, dict]  # task -> settings of its generator, `size` and `seed` among them


def build_records(tasks: Tasks) -> list[dict]:
    """One record a generated question, task by task: {"id": "<task>:<number>", "group", "prompt", "completion", "kind"}.

    Questions with one answer of several words (a sentence that is shuffled in different ways) are a group, so that no answer
    is learnt by heart for the test; any other question is a group of its own, since numbers and single words must recur.

    Raises:
        ConfigError: there is no such task, or a generator refuses its settings.
    """
    records = []
    for task, dataset in _datasets(tasks).items():
        for number in range(len(dataset)):
            entry = dataset[number]
            record_id, answer = f"{task}:{number}", str(entry["answer"]).strip()
            records.append(
                {
                    "id": record_id,
                    "group": f"{task}:{answer}" if len(answer.split()) > 2 else record_id,
                    "kind": task,
                    "prompt": [{"role": "user", "content": entry["question"].strip()}],
                    "completion": [{"role": "assistant", "content": answer}],
                }
            )
    return records


def verify(ids: list[str], answers: list[str], tasks: Tasks) -> list[float]:
    """The marks that the library's verifiers give: 1.0 for a right answer, less, often 0.0, for a wrong one.

    Args:
        ids: of the records. The generators are seeded, so a record's question is made again from its id.
        answers: one a record.
        tasks: as the records were built with.
    """
    datasets = _datasets(tasks)
    marks = []
    for record_id, answer in zip(ids, answers, strict=True):
        task, _, number = record_id.rpartition(":")
        marks.append(float(datasets[task].score_answer(answer, datasets[task][int(number)])))
    return marks


def wheel() -> Path:
    """The wheel, its sha256 checked against the lock."""
    return locked_wheels([PACKAGE])[PACKAGE]


def _datasets(tasks: Tasks) -> dict:
    """A `reasoning_gym.dataset.ProceduralDataset` for each task."""
    path = wheel()
    with zipfile.ZipFile(path) as archive:
        modules = [name.removesuffix(".py").split("/") for name in archive.namelist() if name.endswith(".py")]
    known = {parts[2]: parts[1] for parts in modules if parts[0] == SOURCE and len(parts) == 3}
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise ConfigError(
            f"data.tasks: {path.name} has no task {', '.join(unknown)}. Its tasks: {', '.join(sorted(known))}."
        )
    for package in (SOURCE, *(f"{SOURCE}.{known[task]}" for task in tasks)):
        if package not in sys.modules:
            stand_in = types.ModuleType(package)
            stand_in.__path__ = [f"{path}/{package.replace('.', '/')}"]
            sys.modules[package] = stand_in
    for task in tasks:
        importlib.import_module(f"{SOURCE}.{known[task]}.{task}")
    create_dataset = importlib.import_module(f"{SOURCE}.factory").create_dataset
    datasets = {}
    for task, settings in tasks.items():
        try:
            datasets[task] = create_dataset(task, **settings)
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"data.tasks.{task}: {path.name} refuses the settings {settings}: {error}.") from error
    return datasets
