"""Shared fixtures: a word-level tokenizer whose ids can be read off by hand, a two-layer random Phi-3, a run's config.

And a project in which that model trains in seconds.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries below read it: no test may reach for a hub

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast
from xdist.scheduler import LoadScopeScheduling

from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config

ROOT = Path(__file__).parent.parent
WORDS = ["hello", "there", "general", "what", "is", "it", "a", "robe", "b"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class OneSmokeRun(LoadScopeScheduling):
    """Sends all that looks at the finished smoke run to one process, which makes it once, and any other test where there is time.

    pytest-xdist's own `--dist loadgroup` takes no notice of its groups under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/integration/smoke/"
        return folder if nodeid.startswith(folder) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> OneSmokeRun:
    return OneSmokeRun(config, log)


def word_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One id a word, newlines included; like the default model, its end-of-turn token is also eos and padding."""
    vocab = ["<|im_start|>", "<|im_end|>", "[UNK]", "\n", "system", "user", "assistant", *words]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocab)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="[UNK]",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


def random_phi3() -> Phi3ForCausalLM:
    """A random Phi-3 of 2 layers over the word tokenizer's vocabulary."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        original_max_position_embeddings=128,
        initializer_range=0.5,  # large, so that predictions differ from uniform ones
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Phi3ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_model() -> Phi3ForCausalLM:
    """A random Phi-3, the same for all tests."""
    return random_phi3()


@pytest.fixture
def tiny_copy(tiny_model) -> Phi3ForCausalLM:
    """A copy of the tiny model that a test may change."""
    return copy.deepcopy(tiny_model)


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Run git as somebody whose settings do not matter; return what it prints."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def make_project(folder: Path, *linked: str) -> Path:
    """Fill a folder with the shipped configs and locks, and links to what `make fetch` has left at these places."""
    for name in ("config", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("wheels", ".image-*"))
    for name in linked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with the shipped configs and locks, as the working directory."""
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


@pytest.fixture
def smoke(workspace: Path) -> Config:
    return load_config(Path("config/smoke.yaml"))


def ask(question: str, answer: str, **extra: str) -> dict:
    """A record with one question and one answer."""
    prompt = [{"role": "user", "content": question}]
    return {
        "id": question,
        "group": question,
        "kind": "all",
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": answer}],
    } | extra


def run_stage(stage: str, *overrides: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a stage as a command, as make does."""
    command = [sys.executable, "-m", f"lorabundle.{stage}", "--config", "config/smoke.yaml"]
    command += ["--set", *overrides] if overrides else []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert not check or finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture
def tiny_project(workspace: Path, tiny_model) -> Path:
    """A project with a tiny Phi-3 in a local folder and a JSONL dataset over its vocabulary."""
    write_tiny(workspace, tiny_model)
    return workspace


def write_tiny(folder: Path, model: Phi3ForCausalLM) -> None:
    """Write a model as `tiny`, and `data.jsonl`, a dataset over its vocabulary."""
    model.save_pretrained(folder / "tiny")
    word_tokenizer().save_pretrained(folder / "tiny")
    rows = []
    for number in range(120):
        first, second, third = (WORDS[number % 9], WORDS[number // 9 % 9], WORDS[number * 5 % 7])
        rows.append({"prompt": f"{first} {second} {third}", "completion": " ".join([second, first] * (1 + number % 4))})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TINY = [
    "run=tiny",
    "model.name=tiny",
    "model.source=local",
    "model.path=tiny",
    "model.dtype=float32",
    "data.source=data.jsonl",
    "data.packages=[]",
    "data.max_train_examples=40",
    "lora.r=4",
    "train.num_train_epochs=20",
]


@pytest.fixture
def tiny_config(tiny_project: Path) -> Callable[..., Config]:
    """The tiny project's config, with further overrides."""
    return lambda *overrides: load_config(Path("config/smoke.yaml"), [*TINY, *overrides])
