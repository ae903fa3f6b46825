"""Settings: every shipped config, and every way to get one wrong."""

from pathlib import Path

import pytest
import yaml

from lorabundle.core.config_file import load_config, write_resolved
from lorabundle.core.errors import ConfigError, MissingInputError
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "config").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_config_is_valid_and_every_value_has_a_comment(path):
    config = load_config(path)
    assert config.model_dump()["lora"]["target_modules"] == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    if path.name == "default.yaml":  # the others explain what they have other reasons for
        values = [line for line in path.read_text().splitlines() if ": " in line and not line.lstrip().startswith("#")]
        assert [line for line in values if "#" not in line] == []
    else:
        assert path.read_text().count("\nextends: default.yaml\n") == 1


def test_runs_of_shipped_configs_do_not_share_a_folder():
    runs = [load_config(path).run for path in SHIPPED]
    assert len(set(runs)) == len(runs)


def test_unknown_key_names_the_nearest(workspace):
    with pytest.raises(ConfigError, match=r"train\.learning_rat: unknown key \(did you mean learning_rate\?\)"):
        load_config(Path("config/smoke.yaml"), ["train.learning_rat=1e-4"])


def test_all_problems_are_reported_at_once(workspace):
    with pytest.raises(ConfigError) as caught:
        load_config(Path("config/smoke.yaml"), ["lora.r=0", "train.max_steps=soon", "colour=red"])
    message = str(caught.value)
    assert "3 problem(s)" in message
    for part in ("lora.r:", "train.max_steps:", "colour: unknown key"):
        assert part in message


def test_overrides_are_typed(workspace):
    config = load_config(Path("config/smoke.yaml"), ["train.learning_rate=1e-4", "lora.target_modules=[qkv_proj]"])
    assert config.train.learning_rate == 1e-4
    assert config.lora.target_modules == ["qkv_proj"]


@pytest.mark.parametrize("override", ["train.learning_rate", "=1", "run.name=x", "lora.r=[1"])
def test_malformed_override(workspace, override):
    with pytest.raises(ConfigError, match="--set"):
        load_config(Path("config/smoke.yaml"), [override])


@pytest.mark.parametrize("revision", ["null", "main", "abc123"])
def test_hub_model_needs_a_full_commit(workspace, revision):
    with pytest.raises(ConfigError, match="40-digit commit"):
        load_config(Path("config/smoke.yaml"), ["model.source=hub", "model.path=a/b", f"model.revision={revision}"])


OWN = ["data.source=someone/questions", "data.packages=[]"]


@pytest.mark.parametrize("revision", ["null", "main", "abc123"])
def test_hub_dataset_needs_a_full_commit(workspace, revision):
    with pytest.raises(ConfigError, match=r"data\.revision must be the full 40-digit commit.*there is no such file"):
        load_config(Path("config/smoke.yaml"), [*OWN, f"data.revision={revision}"])


def test_hub_dataset(workspace):
    data = load_config(Path("config/smoke.yaml"), [*OWN, f"data.revision={'ab' * 20}"]).data
    assert data.is_hub
    assert data.dataset_dir == Path("data/raw/datasets/someone--questions-abababab")


@pytest.mark.parametrize("source", ["mine/rows.jsonl", "mine/rows.CSV", "mine/rows.parquet", "rows.json"])
def test_file_is_no_hub_dataset(workspace, source):
    settings = ["data.packages=[]", f"data.source={source}"]
    assert not load_config(Path("config/smoke.yaml"), settings).data.is_hub
    with pytest.raises(ConfigError, match=r"data\.revision is only for a hub id"):
        load_config(Path("config/smoke.yaml"), [*settings, f"data.revision={'ab' * 20}"])


@pytest.mark.parametrize("source", ["mine.txt", "a/b/c", "docstring"])
def test_source_of_no_known_kind(workspace, source):
    with pytest.raises(
        ConfigError, match=r"data\.source must be docstrings or reasoning_gym, a file that ends in one of \.parquet"
    ):
        load_config(Path("config/smoke.yaml"), ["data.packages=[]", f"data.source={source}"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{promt: a}", r"data\.columns\.promt.*'prompt'"),
        ("{prompt: a}", "must name prompt and completion, or messages; it names prompt"),
        ("{messages: a, completion: b}", "must name prompt and completion, or messages"),
        ("[prompt]", r"data\.columns"),
    ],
)
def test_columns_that_give_no_row(workspace, columns, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Path("config/smoke.yaml"), ["data.packages=[]", "data.source=a.csv", f"data.columns={columns}"])


def test_columns_are_for_data_of_ones_own(workspace):
    with pytest.raises(ConfigError, match="docstrings has none"):
        load_config(Path("config/smoke.yaml"), ["data.columns={kind: a}"])


@pytest.mark.parametrize(
    "override", ["data.on_error=skip", "data.near_duplicate_threshold=0", "data.near_duplicate_threshold=1.1"]
)
def test_data_settings_out_of_range(workspace, override):
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        load_config(Path("config/smoke.yaml"), [override])


def test_checkpoints_fall_on_logging_steps(workspace):
    with pytest.raises(ConfigError, match=r"multiple of train\.logging_steps"):
        load_config(Path("config/smoke.yaml"), ["train.logging_steps=2", "train.save_steps=3"])


def test_a_checkpoint_is_kept_beside_the_one_being_written(workspace):
    with pytest.raises(ConfigError, match=r"train\.save_total_limit: .* greater than or equal to 2, got 1"):
        load_config(Path("config/smoke.yaml"), ["train.save_total_limit=1"])


def test_run_name_cannot_leave_outputs(workspace):
    with pytest.raises(ConfigError, match="run:"):
        load_config(Path("config/smoke.yaml"), ["run=../elsewhere"])


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


@pytest.mark.parametrize(
    "override", ["seed=4294967296", "train.learning_rate=.inf", "train.num_train_epochs=.nan", "train.max_steps=0"]
)
def test_numbers_that_cannot_work(workspace, override):
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        load_config(Path("config/smoke.yaml"), [override])


def test_resolved_files_are_rewritten_only_when_they_change(smoke):
    """Make reruns the stages that read a section whose file is newer."""
    write_resolved(smoke)
    sections = smoke.run_dir / ".sections"
    before = {path.name: path.stat().st_mtime_ns for path in sections.iterdir()}
    write_resolved(load_config(Path("config/smoke.yaml"), ["sample.num_prompts=1"]))
    changed = [path.name for path in sections.iterdir() if path.stat().st_mtime_ns != before[path.name]]
    assert changed == ["sample.yaml"]
    assert yaml.safe_load((smoke.run_dir / "config.yaml").read_text())["sample"]["num_prompts"] == 1
