"""The RO-Crate: what the Process Run Crate profile asks for, and that it tells what the stages' records tell."""

import json

import pytest
from rocrate.rocrate import ROCrate

from lorabundle.submission import ro_crate
from lorabundle.submission.finished_run import PACKED_STAGES
from tests.fake_submission import COMMIT, WEIGHTS, documents, load

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"


@pytest.fixture
def graph(packed) -> dict[str, dict]:
    """The crate's entities by id; no id occurs twice."""
    entities = json.loads(documents(packed)[ro_crate.NAME])["@graph"]
    assert len({entity["@id"] for entity in entities}) == len(entities)
    return {entity["@id"]: entity for entity in entities}


def ids(references: dict | list[dict]) -> list[str]:
    """The ids that a property refers to: one, or a list."""
    return [reference["@id"] for reference in (references if isinstance(references, list) else [references])]


def references(value) -> list[str]:
    """Every id that an entity's properties refer to."""
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    return [value["@id"]] if isinstance(value, dict) else []


def test_root_has_what_ro_crate_requires(graph):
    descriptor, root = graph["ro-crate-metadata.json"], graph["./"]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset"
    assert "smoke" in root["name"]
    assert root["description"]
    assert root["datePublished"] == "2026-11-23T10:06:00+00:00"
    assert ids(root["license"]) == ["LICENSE", "LICENSES.md"]
    assert root["conformsTo"] == {"@id": PROFILE}
    assert graph[PROFILE]["@type"] == "CreativeWork"


def test_every_packed_file_is_listed_with_its_hash_and_nothing_else(graph, packed):
    finished = load(packed)
    files = {name for name, entity in graph.items() if "File" in entity["@type"]}
    made = {"CHECKLIST.md", "LICENSES.md", "REPRODUCE.md", "provenance.intoto.json", "sbom.cdx.json"}
    assert files == set(finished.packed) | made == set(ids(graph["./"]["hasPart"]))
    for name, digest in finished.packed.items():
        assert graph[name]["sha256"] == digest
        assert int(graph[name]["contentSize"]) == finished.sizes[name]


def test_every_reference_leads_somewhere(graph):
    outside = {"https://w3id.org/ro/crate/1.1"}
    for entity in graph.values():
        for value in entity.values():
            assert set(references(value)) <= set(graph) | outside


@pytest.mark.parametrize("stage", PACKED_STAGES)
def test_each_stage_is_an_action_that_says_what_its_record_says(graph, packed, stage):
    record = json.loads(packed.record_path(stage).read_text())
    action = graph[f"#{stage}"]
    assert action["@type"] == "CreateAction"
    assert f"#{stage}" in ids(graph["./"]["mentions"])
    assert action["description"] == f"python -m lorabundle.{stage} --config config/smoke.yaml --set run=smoke"
    assert (action["startTime"], action["endTime"]) == (record["started_at"], record["ended_at"])
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    for key, property in (("inputs", "object"), ("outputs", "result")):
        told = {name.removeprefix("#"): graph[name]["sha256"] for name in ids(action[property])}
        assert told == record[key]


@pytest.mark.parametrize("stage", PACKED_STAGES)
def test_each_action_has_its_module_as_instrument(graph, stage):
    """The profile's one MUST for an action."""
    (module,) = ids(graph[f"#{stage}"]["instrument"])
    assert module == f"src/lorabundle/{stage}.py"
    assert graph[module]["@type"] == ["File", "SoftwareApplication"]
    assert graph[module]["softwareVersion"] == COMMIT


def test_file_outside_the_archive_is_no_data_entity(graph):
    """RO-Crate forbids a File that is not there; the profile takes a CreativeWork."""
    weights = graph[f"#{WEIGHTS}"]
    assert weights["@type"] == "CreativeWork"
    assert weights["sha256"] == "f" * 64
    assert "not in this archive" in weights["description"]
    assert f"#{WEIGHTS}" not in ids(graph["./"]["hasPart"])


def test_environment_variables_are_of_the_training(graph):
    values = {graph[name]["name"]: graph[name]["value"] for name in ids(graph["#train"]["environment"])}
    assert values == {"NUMERICS": "fast", "LORABUNDLE_ENGINE": "venv", "LORABUNDLE_COMMIT": COMMIT}
    assert "environment" not in graph["#report"]


def test_the_library_reads_it_back(packed, tmp_path_factory):
    text = documents(packed)[ro_crate.NAME]
    folder = tmp_path_factory.mktemp("crate")
    (folder / ro_crate.NAME).write_text(text)
    read = ROCrate(folder)
    assert read.root_dataset["datePublished"] == "2026-11-23T10:06:00+00:00"
    assert {entity.id for entity in read.get_by_type("CreateAction")} == {f"#{stage}" for stage in PACKED_STAGES}
    assert read.get("#evaluate")["instrument"].id == "src/lorabundle/evaluate.py"
