"""`provenance.intoto.json`: how the results were made, as an in-toto statement with SLSA's provenance predicate.

SLSA calls this build level 1: it says which inputs, settings and machine made which files. The build itself wrote it on the author's
machine, so it proves nothing to someone who does not trust the author.

Specifications: in-toto Attestation Framework, Statement v1; slsa.dev/provenance/v1. The endings `.intoto.jsonl` and `.att` are not
used, because they are for signed envelopes.
"""

import json
import re

from packageurl import PackageURL

from lorabundle.core.config import ASSETS_LOCK, COMMIT
from lorabundle.core.locks import read_lock
from lorabundle.submission.finished_run import TAG, FinishedRun

NAME = "provenance.intoto.json"
BUILD_TYPE = f"{TAG}build/make-all/v1"  # REPRODUCE.md describes it below "Records"
BUILDER = f"{TAG}builder/authors-machine"


def document(run: FinishedRun) -> str:
    """The statement."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [_file(run, path) for path in subjects(run)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _parameters(run),
                "internalParameters": {
                    key: run.environment[key]
                    for key in (
                        "engine",
                        "numerics",
                        "threads",
                        "dtype",
                        "compute_dtype",
                        "activation_dtype",
                        "attn_implementation",
                        "cpu",
                        "platform",
                        "python",
                    )
                },
                "resolvedDependencies": dependencies(run),
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {"startedOn": _zulu(run.started), "finishedOn": _zulu(run.finished)},
                "byproducts": [_file(run, run.config.record_path(stage).as_posix()) for stage in run.records],
            },
        },
    }
    return json.dumps(statement, indent=2, ensure_ascii=False) + "\n"


def subjects(run: FinishedRun) -> list[str]:
    """The results that are in the archive: what the stages wrote, without their records and logs."""
    written = {path for record in run.records.values() for path in record.part("outputs")}
    return sorted(written & set(run.packed))


def dependencies(run: FinishedRun) -> list[dict]:
    """What the results were made from: source, locks, settings, model, data, image."""
    commits = {record.text("commit") for record in run.records.values()}
    found = [_source(commit) for commit in sorted(commits)]
    found += [_file(run, path.as_posix()) for path in (*run.installed_locks, ASSETS_LOCK)]
    found += [_file(run, run.of_run("config.yaml"))]
    found += _model(run) + _data(run)
    image = re.match(r"(\S+), content sha256:([0-9a-f]{64})", run.environment.text("image"))
    if image:
        found.append(
            {"name": image[1], "digest": {"sha256": image[2]}, "annotations": {"digestBy": "docker/digest.py"}}
        )
    return found


def package_of(path: str, sha256: str) -> PackageURL | None:
    """The locked package whose wheel this is, found by its hash; None for any other file."""
    for name, (version, hashes) in read_lock(ASSETS_LOCK).items():
        if path.endswith(".whl") and sha256 in hashes:
            return PackageURL("pypi", name=name, version=version)
    return None


def _file(run: FinishedRun, path: str) -> dict:
    return {"name": path, "digest": {"sha256": run.packed[path]}}


def _source(commit: str) -> dict:
    """The source code, by its commit if docker/run.sh found one. The archive holds the files in any case."""
    found = {"name": "source of the pipeline"}
    if COMMIT.match(commit):
        found["digest"] = {"gitCommit": commit[:40]}
    return found | {"annotations": {"commit": commit}}


def _model(run: FinishedRun) -> list[dict]:
    """The weights that were read, and where they came from."""
    origin, config = run.provenance.part("origin"), run.config
    found = []
    if "repo_id" in origin:
        owner, _, name = origin.text("repo_id").rpartition("/")
        uri = PackageURL("huggingface", owner or None, name, origin.text("revision"))
        found.append({"uri": str(uri), "digest": {"gitCommit": origin.text("revision")}})
    files = run.provenance.part("files")
    found += [
        {"name": (config.model_dir / name).as_posix(), "digest": {"sha256": digest}} for name, digest in files.items()
    ]
    return found


def _data(run: FinishedRun) -> list[dict]:
    """Wheels that were read as data or model, and the user's own files."""
    found = {}
    wheels = {path: digest for path, digest in run.records["fetch"].part("inputs").items() if path.endswith(".whl")}
    for path, digest in sorted((wheels | run.manifest.part("source_sha256")).items()):
        package = package_of(path, digest)
        found[path] = ({"uri": str(package)} if package else {}) | {"name": path, "digest": {"sha256": digest}}
    return list(found.values())


def _parameters(run: FinishedRun) -> dict:
    """What the user chose, taken from the training's command."""
    command = run.records["train"]["command"]
    overrides = command[command.index("--set") + 1 :] if "--set" in command else []
    return {"target": "all", "config": command[command.index("--config") + 1], "overrides": overrides}


def _zulu(time: str) -> str:
    """A record's time in SLSA's form, in which UTC is written as Z."""
    return time.replace("+00:00", "Z")
