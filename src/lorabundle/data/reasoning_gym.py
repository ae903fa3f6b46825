"""Tasks with right answers: questions that `reasoning-gym` generates, and its verifiers that score an answer.

The package is not installed, because some of its dependencies need a C compiler and only serve other tasks. Python imports
directly from its hash-pinned wheel, and only the modules of the configured tasks: the package's `__init__` files would import
every task with all its dependencies.

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

Tasks = dict[str, dict]  # task -> settings of its generator, which include `size` and `seed`


def build_records(tasks: Tasks) -> list[dict]:
    """One record per generated question, task by task: {"id": "<task>:<number>", "group", "prompt", "completion", "kind"}.

    Questions with the same answer of three or more words (one sentence, shuffled in different ways) are one group, so that no
    test answer is seen in training. Any other question is its own group, because answers that are numbers or single words repeat.

    Raises:
        ConfigError: a task does not exist, or a generator refuses its settings.
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
    """The scores that the library's verifiers give: 1.0 for a right answer, less, and often 0.0, for a wrong one.

    Args:
        ids: of the records. The generators are seeded, so the id is enough to generate the question again.
        answers: one per record.
        tasks: those that the records were built from.
    """
    datasets = _datasets(tasks)
    scores = []
    for record_id, answer in zip(ids, answers, strict=True):
        task, _, number = record_id.rpartition(":")
        scores.append(float(datasets[task].score_answer(answer, datasets[task][int(number)])))
    return scores


def wheel() -> Path:
    """The wheel, its sha256 checked against the lock."""
    return locked_wheels([PACKAGE])[PACKAGE]


def _datasets(tasks: Tasks) -> dict:
    """A `reasoning_gym.dataset.ProceduralDataset` for each task."""
    path = wheel()
    with zipfile.ZipFile(path) as archive:
        modules = [name.removesuffix(".py").split("/") for name in archive.namelist() if name.endswith(".py")]
    known = {parts[2]: parts[1] for parts in modules if parts[0] == SOURCE and len(parts) == 3}  # task -> subpackage
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise ConfigError(
            f"data.tasks: {path.name} has no task {', '.join(unknown)}. Its tasks: {', '.join(sorted(known))}."
        )
    for package in (SOURCE, *(f"{SOURCE}.{known[task]}" for task in tasks)):
        if package not in sys.modules:
            module = types.ModuleType(package)  # an empty package instead of the one that its __init__ would make
            module.__path__ = [f"{path}/{package.replace('.', '/')}"]
            sys.modules[package] = module
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
