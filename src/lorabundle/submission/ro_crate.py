"""`ro-crate-metadata.json`: the archive as an RO-Crate that follows the Process Run Crate profile.

Every stage is a CreateAction with its command, inputs, outputs, times and module. Files that a stage read or wrote but that are not
in the archive (wheels, weights, splits) are entities too, by name and sha256.

Specifications: RO-Crate 1.1, which the profile builds on; Process Run Crate 0.5, w3id.org/ro/wfrun/process/0.5.
"""

import json
from pathlib import Path

from rocrate.model import ContextEntity, CreativeWork, DataEntity
from rocrate.rocrate import ROCrate

from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import sha256_bytes
from lorabundle.core.strict_json import Fields
from lorabundle.submission.finished_run import FinishedRun

NAME = "ro-crate-metadata.json"  # where RO-Crate readers look
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"  # sha256 and environment, which RO-Crate's own context lacks
# The mimetypes module is not used: its answers depend on files of the machine
FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".yaml": "application/yaml",
    ".py": "text/x-python",
    ".toml": "application/toml",
    ".safetensors": "application/octet-stream",
}
MEANINGS = {  # of the files that a reader looks for first
    "RESULTS.sha256": "Hashes of the results; the hash of this file is the run's fingerprint",
    "adapter_model.safetensors": "Weights of the LoRA adapter",
    "config.yaml": "Every setting of the run",
    "environment.json": "Machine and software that trained",
    "examples.jsonl": "Scores and answers of every test example",
    "manifest.json": "Data card: sizes, lengths, drops, duplicates, licences, hashes",
    "metrics.json": "All numbers of the evaluation",
    "provenance.json": "Origin of the base model",
    "results.html": "Report",
    "results.md": "Report",
    "samples.jsonl": "Answers that the report shows",
    "train_log.jsonl": "Training log, a line for each logging step",
}
STAGE_NAMES = {
    "fetch": "Fetch the base model",
    "preprocess": "Build, split and tokenise the dataset",
    "train": "Train the LoRA adapter",
    "evaluate": "Evaluate base and fine-tuned model",
    "sample": "Pick the answers to show",
    "report": "Render the report",
}


def document(run: FinishedRun, documents: dict[str, bytes]) -> str:
    """The crate's metadata.

    Args:
        run: the run that is packed.
        documents: the archive's other documents, by name.
    """
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(TERMS)
    crate.name = f"LoRA fine-tuning run {run.config.run}"
    crate.description = (
        f"A LoRA adapter for {run.provenance.text('name')}, the evaluation of both, and everything that is needed to "
        f"reproduce them: code, settings, locks, logs and a record of every stage."
    )
    crate.root_dataset["datePublished"] = run.finished
    for name, content in documents.items():
        _add_file(crate, name, {"contentSize": str(len(content)), "sha256": sha256_bytes(content)})
    modules = _modules(run)
    for name, digest in run.packed.items():
        properties = {"contentSize": str(run.sizes[name]), "sha256": digest}
        _add_file(crate, name, properties | modules.get(name, {}))
    crate.root_dataset["license"] = [_packed(crate, "LICENSE"), _packed(crate, "LICENSES.md")]
    for name, digest in run.elsewhere.items():
        properties = {"@type": "CreativeWork", "name": name, "sha256": digest}
        properties["description"] = (
            "A stage read or wrote it, but it is not in this archive: REPRODUCE.md says how to rebuild it"
        )
        crate.add(ContextEntity(crate, f"#{name}", properties))
    actions = [_add_action(crate, run, stage, record) for stage, record in run.records.items()]
    crate.root_dataset["mentions"] = actions
    profile = CreativeWork(crate, PROFILE, {"name": "Process Run Crate", "version": "0.5"})
    crate.root_dataset["conformsTo"] = crate.add(profile)
    return _dump(crate.metadata.generate())


def _add_file(crate: ROCrate, name: str, properties: dict) -> None:
    path = Path(name)
    properties |= {"name": name, "encodingFormat": FORMATS.get(path.suffix, "text/plain")}
    if path.name in MEANINGS and path.parts[0] in ("outputs", "reports"):
        properties["description"] = MEANINGS[path.name]
    crate.add_file(dest_path=name, properties=properties)


def _add_action(crate: ROCrate, run: FinishedRun, stage: str, record: Fields) -> ContextEntity:
    """The action of a stage. It has no agent, because nothing records who ran it; the profile allows that."""
    properties = {
        "name": STAGE_NAMES[stage],
        "description": " ".join(record["command"]),
        "startTime": record.text("started_at"),
        "endTime": record.text("ended_at"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    instrument = _packed(crate, f"src/lorabundle/{stage}.py")
    read, written = ([_entity(crate, path) for path in record.part(key)] for key in ("inputs", "outputs"))
    action = crate.add_action(instrument, f"#{stage}", object=read, result=written, properties=properties)
    if stage == "train":  # its environment.json has the variables that docker/run.sh set
        action["environment"] = _variables(crate, run.environment)
    return action


def _modules(run: FinishedRun) -> dict[str, dict]:
    """Properties of the stages' modules, as software whose version is the commit that ran."""
    return {
        f"src/lorabundle/{stage}.py": {
            "@type": ["File", "SoftwareApplication"],
            "softwareVersion": record.text("commit"),
        }
        for stage, record in run.records.items()
    }


def _packed(crate: ROCrate, name: str) -> DataEntity:
    """The entity of a packed file.

    Raises:
        MissingInputError: it is not packed.
    """
    entity = crate.get(name)
    if entity is None:
        raise MissingInputError(
            f"{name} is missing, which every submission holds. Restore it with git, and run `make archive`."
        )
    return entity


def _entity(crate: ROCrate, path: str) -> DataEntity | ContextEntity:
    return crate.get(path) or crate.get(f"#{path}")


def _variables(crate: ROCrate, environment: Fields) -> list[ContextEntity]:
    variables = {"NUMERICS": "numerics"}
    variables |= {f"LORABUNDLE_{key.upper()}": key for key in ("engine", "image", "commit")}
    values = {name: str(environment[key]) for name, key in variables.items() if environment[key] != ""}
    return [
        crate.add(ContextEntity(crate, f"#variable-{name}", {"@type": "PropertyValue", "name": name, "value": value}))
        for name, value in values.items()
    ]


def _dump(metadata: dict) -> str:
    """Sorted JSON: the descriptor and the root first, then by id. A list with one item is written as that item."""
    first = (NAME, "./")

    def place(entity: dict) -> tuple:
        return (first.index(entity["@id"]) if entity["@id"] in first else len(first), entity["@id"])

    for entity in metadata["@graph"]:
        entity |= {key: value[0] for key, value in entity.items() if isinstance(value, list) and len(value) == 1}
    metadata["@graph"].sort(key=place)
    return json.dumps(metadata, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
