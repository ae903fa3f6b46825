"""The Makefile's logic, with the stages replaced by a script that only leaves their files: what runs, and what does not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lorabundle.core import stage
from lorabundle.training.checkpoints import CODE_FOLDERS
from tests.conftest import ROOT
from tests.unit.test_layers import reached

MAKEFILE = (ROOT / "Makefile").read_text()
STAGES = list(stage.STAGES)
# Stands in for docker/run.sh: notes the stage, and leaves what make looks at
STUB = r"""#!/bin/bash
set -eu
if [ "$1" = --engine ]; then echo venv; exit; fi
stage=${3#lorabundle.}
if [ "$stage" = seeds ]; then echo "seeds ${*:4}" >> ran; exit; fi
config=$5
run=$(bash docker/read_config.sh "$config" "${@:6}" | sed -n 's/^run=//p')
out=outputs/$run
if [ "$stage" = resolve_config ]; then
    PYTHONPATH=src exec @PYTHON@ -m lorabundle.resolve_config "${@:4}"
fi
echo "$stage" >> ran
echo "$NUMERICS" > numerics
mkdir -p "$out/stages" "$out/adapter" data/models/smollm2-135m-phi3 data/processed/{train,val,test} reports/figures archive
keep() { cmp -s "$1" "$2" || cp "$1" "$2"; }
model=data/models/smollm2-135m-phi3
case $stage in
    fetch)
        cp "$out/.sections/model.yaml" $model/provenance.json
        touch $model/model.safetensors
        keep $model/provenance.json "$out/provenance.json"
        written="$model/provenance.json $model/model.safetensors $out/provenance.json"
        if grep -q "data.source=someone/questions" "$out/.sections/.set"; then
            mkdir -p data/raw/datasets/someone--questions-abcdefab
            touch data/raw/datasets/someone--questions-abcdefab/provenance.json
            written="$written data/raw/datasets/someone--questions-abcdefab/provenance.json"
        fi ;;
    preprocess)
        cp "$out/.sections/data.yaml" data/processed/manifest.json
        touch data/processed/{train,val,test}/state.json
        keep data/processed/manifest.json "$out/manifest.json"
        written="data/processed/manifest.json $(echo data/processed/{train,val,test}/state.json) $out/manifest.json" ;;
    train) written="$out/adapter/adapter_model.safetensors $out/train_log.jsonl $out/environment.json" ;;
    evaluate) written="$out/metrics.json $out/examples.jsonl" ;;
    sample) written=$out/samples.jsonl ;;
    report) written="$out/RESULTS.sha256 reports/results.md reports/results.html reports/figures/loss.svg reports/figures/loss.png" ;;
    archive) written="archive/submission-$run.tar.gz archive/submission-$run.tar.gz.sha256" ;;
esac
for file in $written; do [ "$file" -ef "$out/provenance.json" ] || [ "$file" -ef "$out/manifest.json" ] || touch "$file"; done
{
    printf '{\n  "inputs": {\n    "gone": "01"\n  },\n  "outputs": {\n'
    printf '    "%s": "01",\n' $written | sed '$ s/,$//'
    printf '  }\n}\n'
} > "$out/stages/$stage.json"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project whose environment is ready and whose stages are the stub."""
    for name in ("config", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in (
        "requirements.lock",
        "requirements-aarch64.lock",
        "openmp.lock",
        "assets.lock",
        "download.sh",
        "setup.sh",
        "wheels/.complete",
    ):
        Path("docker", name).parent.mkdir(parents=True, exist_ok=True)
        Path("docker", name).write_text("#!/bin/sh\n" if name.endswith(".sh") else "")
    for name in ("read_config.sh", "host.sh"):
        shutil.copyfile(
            ROOT / "docker" / name, Path("docker", name)
        )  # without execute bits, as a copy may have lost them
    Path(".venv").mkdir()
    Path(".venv/.complete").touch()
    Path("docker/run.sh").write_text(STUB.replace("@PYTHON@", sys.executable))
    age(*Path().rglob("*"))
    return tmp_path


def age(*paths: Path) -> None:
    """Make files a minute older, because make compares times."""
    for path in paths:
        if path.is_file():
            os.utime(path, (path.stat().st_atime - 60, path.stat().st_mtime - 60))


def make(*arguments: str, config: str = "config/smoke.yaml") -> list[str]:
    """Run make; return the stages that ran, in order."""
    Path("ran").unlink(missing_ok=True)
    command = ["make", "--no-print-directory", "ENGINE=venv", f"CONFIG={config}", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_all_runs_every_stage_once_and_then_nothing(project):
    assert make("all") == STAGES
    assert make("all") == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("report.py", ["report", "archive"]),
        ("archive.py", ["archive"]),
        ("reporting/templates/results.css", ["report", "archive"]),
        ("submission/templates/LICENSES.md.jinja", ["archive"]),
        ("sample.py", ["sample", "report", "archive"]),
        ("evaluation/metrics.py", ["evaluate", "sample", "report", "archive"]),
        ("train.py", ["train", "evaluate", "sample", "report", "archive"]),
        ("training/step.py", ["train", "evaluate", "sample", "report", "archive"]),
        (
            "compute/packing.py",
            ["train", "evaluate", "sample", "report", "archive"],
        ),  # the attention kernel: no data again
        ("preprocess.py", ["preprocess", "report", "archive"]),  # equal data: nothing trains again
        ("core/errors.py", STAGES),
    ],
)
def test_touching_a_source_file_reruns_what_reads_it(project, source, expected):
    make("all")
    age(*Path().rglob("*"))
    os.utime(f"src/lorabundle/{source}")
    assert make("all") == expected
    assert make("all") == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sample.num_prompts=1", ["sample", "report", "archive"]),
        ("evaluate.batch_size=2", ["evaluate", "sample", "report", "archive"]),
        ("train.learning_rate=1e-5", ["train", "evaluate", "sample", "report", "archive"]),
        ("data.max_length=64", STAGES),
    ],
)
def test_changing_a_setting_reruns_what_reads_it(project, setting, expected):
    make("all")
    age(*Path().rglob("*"))
    assert make("all", f"SET={setting}") == expected
    assert make("all", f"SET={setting}") == []


@pytest.mark.parametrize("argument", ["NUMERICS=portable", "SET=numerics=portable"])
def test_numerics_rerun_the_training_and_reach_the_stage_as_variable_and_setting(project, argument):
    make("all")
    assert Path("numerics").read_text() == "fast\n"
    age(*Path().rglob("*"))
    assert make("all", argument) == ["train", "evaluate", "sample", "report", "archive"]
    assert Path("numerics").read_text() == "portable\n"
    assert yaml.safe_load(Path("outputs/smoke/config.yaml").read_text())["numerics"] == "portable"
    assert make("all", argument) == []


def test_numerics_of_the_config_reach_the_stage(project):
    config = Path("config/smoke.yaml")
    config.write_text(config.read_text() + "numerics: portable\n")
    make("all")
    assert Path("numerics").read_text() == "portable\n"


def test_seeds_train_and_evaluate_a_run_each(project):
    ran = make("seeds", "SEEDS=3 4", "SET=lora.r=2 run=mine seed=9")
    through_evaluation = STAGES[:4]
    assert ran == [*through_evaluation, *through_evaluation, "seeds", "outputs/mine-seed-3", "outputs/mine-seed-4"]
    for seed in (3, 4):
        settings = yaml.safe_load(Path(f"outputs/mine-seed-{seed}/config.yaml").read_text())
        assert (settings["run"], settings["seed"], settings["lora"]["r"]) == (f"mine-seed-{seed}", seed, 2)


def test_comment_in_the_config_only_goes_into_the_submission(project):
    make("all")
    age(*Path().rglob("*"))
    config = Path("config/smoke.yaml")
    config.write_text(config.read_text() + "# a remark\n")
    assert make("all") == ["archive"]


def test_two_runs_share_the_data_folder_without_training_again(project):
    """Switching between configs rebuilds the splits (seconds) and the report, but never an adapter (minutes)."""
    assert make("all") == STAGES
    age(*Path().rglob("*"))
    assert make("all", config="config/default.yaml") == STAGES
    age(*Path().rglob("*"))
    assert make("all") == ["fetch", "preprocess", "report", "archive"]  # fetch: their model settings differ


def test_changing_the_users_data_reruns_what_reads_it(project):
    Path("data").mkdir()
    Path("data/mine.jsonl").write_text("{}")
    source = "SET=data.source=data/mine.jsonl"
    make("all", source)
    age(*Path().rglob("*"))
    assert make("all", source) == []
    os.utime("data/mine.jsonl")
    assert make("all", source) == ["preprocess", "report", "archive"]  # the stub's data does not change


def test_own_data_in_one_word(project):
    """The run takes the file's name, and nothing about the shipped data has to be emptied."""
    Path("data").mkdir()
    Path("data/my rows").mkdir()
    Path("data/My.own_rows.csv").write_text("prompt,completion\n")
    assert make("all", "DATA=data/My.own_rows.csv") == STAGES
    settings = yaml.safe_load(Path("outputs/My.own_rows/config.yaml").read_text())
    assert (settings["run"], settings["data"]["source"]) == ("My.own_rows", "data/My.own_rows.csv")
    assert settings["data"]["packages"] == []
    assert settings["lora"]["r"] == 4  # of the config, smoke.yaml
    assert Path("archive/submission-My.own_rows.tar.gz").exists()
    age(*Path().rglob("*"))
    assert make("all", "DATA=data/My.own_rows.csv") == []
    os.utime("data/My.own_rows.csv")
    assert make("all", "DATA=data/My.own_rows.csv")[0] == "preprocess"


@pytest.mark.parametrize(
    ("data", "run", "source"),
    [
        ("data/mine", "mine", "data/mine"),
        ("data/mine/", "mine", "data/mine/"),
        ("data/mine/a.csv data/mine/b.csv", "a", ["data/mine/a.csv", "data/mine/b.csv"]),
        ("data/mine/*.csv", "mine", "data/mine/*.csv"),
    ],
)
def test_own_data_of_several_files(project, data, run, source):
    """A file that is added, changed or removed is noticed, as far as it is read."""
    Path("data/mine").mkdir(parents=True)
    for name in "ab":
        Path(f"data/mine/{name}.csv").write_text("prompt,completion\n")
    assert make("all", f"DATA={data}") == STAGES
    settings = yaml.safe_load(Path(f"outputs/{run}/config.yaml").read_text())
    assert (settings["run"], settings["data"]["source"]) == (run, source)
    age(*Path().rglob("*"))
    assert make("all", f"DATA={data}") == []
    os.utime("data/mine/b.csv")
    assert make("all", f"DATA={data}")[0] == "preprocess"
    if isinstance(source, str):
        age(*Path().rglob("*"))
        Path("data/mine/c.csv").write_text("x")
        os.utime("data/mine/c.csv", (0, 0))
        assert make("all", f"DATA={data}")[0] == "preprocess"
        age(*Path().rglob("*"))
        Path("data/mine/c.csv").unlink()
        assert make("all", f"DATA={data}")[0] == "preprocess"


@pytest.mark.parametrize("name", ["mine.csv", "someone/questions"])
def test_own_data_that_is_not_there_is_named_before_anything_is_done(project, name):
    error = fails("all", "ENGINE=venv", f"DATA={name}")
    assert f"config: error: there is no file {name}. Name data files or a folder; or a dataset on the hub" in error
    assert not Path("outputs").exists()


def test_own_data_may_be_a_dataset_of_the_hub(project):
    assert make("all", "DATA=someone/questions", f"SET=data.revision={'abcdef' * 6 + 'abcd'}") == STAGES
    assert yaml.safe_load(Path("outputs/questions/config.yaml").read_text())["data"]["source"] == "someone/questions"


def test_set_overrides_what_own_data_says(project):
    Path("mine.jsonl").write_text("{}")
    assert make("all", "DATA=mine.jsonl", "SET=run=other lora.r=2") == STAGES
    assert not Path("outputs/mine").exists()
    settings = yaml.safe_load(Path("outputs/other/config.yaml").read_text())
    assert (settings["data"]["source"], settings["lora"]["r"]) == ("mine.jsonl", 2)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("../a b.csv", None),
        ("x/Q&A.csv.gz", "Q-A"),
        ("-dash.csv", "dash"),
        ("données.jsonl", "donn--es"),
        ("x/rows.v2.parquet", "rows.v2"),
    ],
)
def test_run_is_named_by_the_file_with_plain_characters(project, name, run):
    if name[0] not in ".-":
        Path(name).parent.mkdir(exist_ok=True)
    Path(name).touch()
    database = subprocess.run(["make", "-pn", "help", f"DATA={name}"], capture_output=True, text=True)
    if run is None:
        assert "make cannot use a file name with spaces" in database.stderr
    else:
        assert f"RUN := outputs/{run}\n" in database.stdout


def test_seeds_of_own_data(project):
    Path("mine.csv").write_text("prompt,completion\n")
    assert make("seeds", "SEEDS=3 4", "DATA=mine.csv")[-2:] == ["outputs/mine-seed-3", "outputs/mine-seed-4"]
    assert yaml.safe_load(Path("outputs/mine-seed-3/config.yaml").read_text())["data"]["source"] == "mine.csv"


def test_config_that_make_reads_differently_is_refused_before_anything_is_made(project):
    Path("config/mine.yaml").write_text("extends: smoke.yaml\nrun: mine\nmodel: {name: other, path: else}\n")
    error = fails("all", "ENGINE=venv", "CONFIG=config/mine.yaml")
    assert "config/mine.yaml: model.name is 'other', but make, which reads a few settings before Python runs" in error
    assert not Path("ran").exists()


def test_a_change_in_the_config_that_is_extended_reruns_what_reads_it(project):
    make("all")
    age(*Path().rglob("*"))
    default = Path("config/default.yaml")
    default.write_text(default.read_text().replace("lora_dropout: 0.0", "lora_dropout: 0.1"))
    assert make("all") == ["train", "evaluate", "sample", "report", "archive"]


def test_dataset_of_the_hub_is_fetched_and_when_deleted_fetched_again(project):
    source = f"SET=data.source=someone/questions data.revision={'abcdef' * 6 + 'abcd'}"
    assert make("all", source) == STAGES
    age(*Path().rglob("*"))
    assert make("all", source) == []
    shutil.rmtree("data/raw/datasets")
    assert make("all", source)[:2] == ["fetch", "preprocess"]
    assert make("all", source) == []
    age(*Path().rglob("*"))
    other = source.replace("abcdefabc", "abcdefabd")
    assert make("data", other)[:2] == ["fetch", "preprocess"]


@pytest.mark.parametrize(
    ("result", "first"),
    [
        ("data/models/smollm2-135m-phi3/provenance.json", "fetch"),
        ("data/models/smollm2-135m-phi3/model.safetensors", "fetch"),
        ("outputs/smoke/provenance.json", "fetch"),
        ("data/processed/manifest.json", "preprocess"),
        ("data/processed/val/state.json", "preprocess"),
        ("outputs/smoke/adapter/adapter_model.safetensors", "train"),
        ("outputs/smoke/train_log.jsonl", "train"),
        ("outputs/smoke/metrics.json", "evaluate"),
        ("outputs/smoke/examples.jsonl", "evaluate"),
        ("outputs/smoke/samples.jsonl", "sample"),
        ("reports/results.md", "report"),
        ("reports/results.html", "report"),
        ("reports/figures/loss.png", "report"),
        ("reports/figures/loss.svg", "report"),
        ("archive/submission-smoke.tar.gz", "archive"),
    ],
)
def test_deleted_result_is_made_again(project, result, first):
    make("all")
    Path(result).unlink()
    assert make("all")[0] == first
    assert Path(result).exists()


def test_always_make_finds_the_config(project):
    assert make("all", "-B") == STAGES


def test_two_runs_with_one_model_name_do_not_use_each_others_weights(project):
    other = "extends: smoke.yaml\nrun: other\nmodel: \n  name: smollm2-135m-phi3\n  path: else\n"
    Path("config/other.yaml").write_text(other)
    make("all")
    age(*Path().rglob("*"))
    assert make("all", config="config/other.yaml") == STAGES
    age(*Path().rglob("*"))
    ran = make("all")
    assert ran[0] == "fetch"
    assert "train" not in ran  # the weights are again those that this run was trained with


def test_changed_model_trains_again(project):
    make("all")
    age(*Path().rglob("*"))
    assert make("all", "SET=model.name=smollm2-135m-phi3 model.path=else") == STAGES


def test_image_prints_what_it_is_each_time(project):
    Path("docker/run.sh").write_text("#!/bin/sh\necho docker\n")
    for name in ("base_image.sh", "debian.lock", "debian-aarch64.lock", "Dockerfile", "digest.py", ".image-docker"):
        Path("docker", name).write_text("sha256:01\nlorabundle:ab, content sha256:23\n")
    for _ in range(2):
        printed = subprocess.run(
            ["make", "--no-print-directory", "image", "ENGINE=docker"], capture_output=True, text=True, check=True
        ).stdout
        assert printed.splitlines()[-1] == "lorabundle:ab, content sha256:23"


def test_changed_environment_trains_again(project):
    make("all")
    age(*Path().rglob("*"))
    os.utime("docker/requirements.lock")
    for stamp in (Path("docker/wheels/.complete"), Path(".venv/.complete")):
        stamp.touch()
    ran = make("all")
    assert ran[-5:] == ["train", "evaluate", "sample", "report", "archive"]


@pytest.mark.parametrize("name", ["README.md", "config/default.yaml", "src/lorabundle/seeds.py", "docker/setup.sh"])
def test_submission_is_packed_again_when_the_source_changes(project, name):
    Path("README.md").touch()
    make("all")
    age(*Path().rglob("*"))
    os.utime(name)
    for stamp in (Path("docker/wheels/.complete"), Path(".venv/.complete")):
        stamp.touch()
    assert make("archive")[-1] == "archive"


def test_archive_is_signed_if_a_key_is_given(project):
    """Also one that was packed before, and without packing it again."""
    Path("docker/sign.sh").write_text('#!/bin/sh\nprintf "%s|" "$@" >> signed\n')
    age(*Path().rglob("*"))
    assert make("all") == STAGES
    assert not Path("signed").exists()
    assert make("archive", "SIGN_KEY=my keys/id") == []
    assert Path("signed").read_text() == "my keys/id|archive/submission-smoke.tar.gz|"


def test_settings_may_come_from_the_environment(project, monkeypatch):
    monkeypatch.setenv("CONFIG", "config/smoke.yaml")
    monkeypatch.setenv("ENGINE", "venv")
    subprocess.run(["make", "data"], check=True, capture_output=True)
    assert Path("outputs/smoke/manifest.json").exists()


def test_distclean_leaves_the_users_own_data(project):
    kept = [Path("data/mine.csv"), Path("data/raw/mine.csv")]
    for path in (
        *kept,
        Path("data/raw/wheels/a.whl"),
        Path("data/raw/docstrings.jsonl"),
        Path("data/models/m/config.json"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["make", "distclean"], check=True, capture_output=True)
    assert sorted(path for path in Path("data").rglob("*") if path.is_file()) == kept


@pytest.mark.parametrize("target", ["help", "clean"])
def test_targets_that_need_no_engine_ask_for_none(project, target):
    Path("docker/run.sh").write_text("#!/bin/sh\nexit 1\n")
    subprocess.run(["make", target, "ENGINE=lxc"], check=True, capture_output=True)


def fails(*arguments: str) -> str:
    """Run make, expecting it to fail; return what it says on stderr."""
    finished = subprocess.run(["make", *arguments], capture_output=True, text=True)
    assert finished.returncode == 2  # make's own code for a failed recipe
    return finished.stderr


def test_missing_config_is_named_before_anything_is_done(project):
    error = fails("all", "ENGINE=venv", "CONFIG=config/defualt.yaml")
    assert error.startswith(
        "config: error: there is no config file config/defualt.yaml. Pass CONFIG=<file>; config/ has"
    )
    assert not Path("outputs").exists()


def test_unwritable_output_folder(project):
    Path("outputs").write_text("a file where a folder should be")
    assert fails("all", "ENGINE=venv", "CONFIG=config/smoke.yaml").startswith("config: error: cannot write to outputs/")


def test_run_name_may_be_quoted(project):
    text = Path("config/smoke.yaml").read_text()
    Path("config/quoted.yaml").write_text(text.replace("run: smoke", 'run: "quoted" # a remark'))
    assert make("all", config="config/quoted.yaml") == STAGES
    assert Path("archive/submission-quoted.tar.gz").exists()


def test_failed_stage_stops_make(project):
    stub = Path("docker/run.sh")
    stub.write_text(stub.read_text().replace("train) ", "train) exit 1 ;; x) "))
    fails("all", "ENGINE=venv", "CONFIG=config/smoke.yaml")
    assert Path("ran").read_text().split() == ["fetch", "preprocess", "train"]


def test_help_lists_every_public_target_and_only_those():
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.M))
    documented = re.findall(r"^## ([a-z-]+): \S", MAKEFILE, re.M)
    assert len(set(documented)) == len(documented)
    assert set(documented) == phony
    text = subprocess.run(["make", "-C", ROOT, "-s"], capture_output=True, text=True, check=True).stdout
    for target in documented:
        assert f"make {target} " in text
    for variable in ("CONFIG=", "SET=", "ENGINE=", "BASE=", "NUMERICS=", "THREADS=", "SIGN_KEY="):
        assert variable in text


@pytest.mark.parametrize("stage", STAGES)
def test_packages_that_a_stage_depends_on_are_those_that_it_imports(stage):
    """Else editing a module would leave stale results, or rerun for nothing."""
    module, packages = re.search(
        rf"^\$\(STAGES\)/{stage}\.json: \$\(call code,(\w+),([^)]*)\)", MAKEFILE, re.M
    ).groups()
    imported = {name.split(".")[0] for name in reached(stage) if "." in name}
    assert module == stage
    assert {"core", *packages.split()} == imported


def test_training_code_is_the_same_for_make_and_for_checkpoints():
    """Else a change could rerun training, which would then resume from checkpoints of the old code."""
    packages = re.search(r"^\$\(STAGES\)/train\.json: \$\(call code,train,([^)]*)\)", MAKEFILE, re.M)[1].split()
    assert set(packages) == set(CODE_FOLDERS)


@pytest.mark.parametrize("setting", ["run=../../elsewhere", "run=.hidden", "model.name=../../../elsewhere"])
def test_a_name_that_leads_elsewhere_makes_no_folder_there(project, setting):
    """The config stage refuses it, but make makes folders before that."""
    command = ["make", "data", "ENGINE=venv", "CONFIG=config/smoke.yaml", f"SET={setting}"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "can have letters, digits" in finished.stderr
    assert not Path("../elsewhere").exists()
    assert not Path("outputs/.hidden").exists()


def test_empty_config_is_named(project):
    finished = subprocess.run(["make", "all", "CONFIG="], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "CONFIG is empty" in finished.stderr
