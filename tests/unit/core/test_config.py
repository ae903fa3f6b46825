"""Settings: every shipped config, and every way to get one wrong."""

from pathlib import Path

import pytest

from lorabundle.core.config_file import load_config
from lorabundle.core.errors import ConfigError
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


@pytest.mark.parametrize("revision", ["null", "main", "abc123"])
def test_hub_model_needs_a_full_commit(workspace, revision):
    with pytest.raises(ConfigError, match="40-digit commit"):
        load_config(Path("config/smoke.yaml"), ["model.source=hub", "model.path=a/b", f"model.revision={revision}"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.dtype=float32", "model.compute_dtype=int8"], r"kept in int8 or nf4, and model\.dtype is float32"),
        (["model.dtype=bfloat16", "model.compute_dtype=int8"], r"Set model\.dtype to int8, nf4 or auto"),
        (
            ["model.dtype=float32", "model.compute_dtype=bfloat16"],
            r"would round weights that model\.dtype keeps in float32",
        ),
        (["model.load_in_4bit=true", "model.compute_dtype=int8"], r"older name of model\.dtype: nf4"),
        (["model.load_in_4bit=true", "model.dtype=int8"], r"older name of model\.dtype: nf4"),
        (["model.load_in_4bit=perhaps"], "unknown key"),
        (["model.dtype=int4"], "model.dtype"),
    ],
)
def test_products_must_suit_the_weights(workspace, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Path("config/smoke.yaml"), settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["model.load_in_4bit=true"], ("nf4", "float32")),  # the smoke config's dtype is float32
        (["model.load_in_4bit=true", "model.dtype=bfloat16"], ("nf4", "bfloat16")),
        (["model.load_in_4bit=true", "model.dtype=auto"], ("nf4", "auto")),
        (["model.load_in_4bit=true", "model.dtype=nf4"], ("nf4", "auto")),
        (["model.load_in_4bit=false"], ("float32", "auto")),
    ],
)
def test_the_earlier_switch_for_4_bits_keeps_its_meaning(workspace, settings, expected):
    model = load_config(Path("config/smoke.yaml"), settings).model
    assert (model.dtype, model.compute_dtype) == expected


OWN = ["data.source=someone/questions", "data.packages=[]"]


@pytest.mark.parametrize("revision", ["null", "main", "abc123"])
def test_hub_dataset_needs_a_full_commit(workspace, revision):
    with pytest.raises(
        ConfigError, match=r"data\.revision must be the full 40-digit commit.*there is no file or folder someone"
    ):
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
        ConfigError, match=r"data\.source must be docstrings or reasoning_gym, a file of a known format, a folder"
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
    with pytest.raises(ConfigError, match=r"data\.columns is for your own data; the source is docstrings"):
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


@pytest.mark.parametrize(
    "override", ["seed=4294967296", "train.learning_rate=.inf", "train.num_train_epochs=.nan", "train.max_steps=0"]
)
def test_numbers_that_cannot_work(workspace, override):
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        load_config(Path("config/smoke.yaml"), [override])
