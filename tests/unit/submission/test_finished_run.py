"""A finished run as the documents need it: hashes, records in order, and files that agree with each other."""

import pytest

from lorabundle.core.errors import HashMismatchError, MissingInputError
from lorabundle.core.files import atomic_write, read_json, sha256_file, write_json
from lorabundle.submission.finished_run import PACKED_STAGES
from tests.fake_submission import TOOLZ, WEIGHTS, load, locked_hash


def test_hashes_and_sizes_are_those_of_the_files(packed):
    run = load(packed)
    weights = run.of_run("adapter/adapter_model.safetensors")
    assert weights == "outputs/smoke/adapter/adapter_model.safetensors"
    assert (run.packed[weights], run.sizes[weights]) == (sha256_file(packed.run_dir / weights[14:]), len("weights"))
    assert run.fingerprint == sha256_file(packed.run_dir / "RESULTS.sha256")
    assert run.packed.keys() == run.sizes.keys()


def test_files_elsewhere_are_those_that_only_records_name(packed):
    run = load(packed)
    splits = {f"data/processed/{name}/data.arrow" for name in ("train", "val", "test")}
    assert splits | {TOOLZ, WEIGHTS} < set(run.elsewhere)
    assert (run.elsewhere[WEIGHTS], run.elsewhere[TOOLZ]) == ("f" * 64, locked_hash("toolz"))
    assert not run.elsewhere.keys() & run.packed.keys()


def test_records_are_in_the_order_of_the_stages(packed):
    run = load(packed)
    assert tuple(run.records) == PACKED_STAGES == ("fetch", "preprocess", "train", "evaluate", "sample", "report")
    assert (run.started, run.finished) == ("2026-11-23T10:00:00+00:00", "2026-11-23T10:06:00+00:00")


def test_a_base_model_from_a_folder_states_no_licence(own_packed):
    assert load(own_packed).model_licence == ""


def test_licence_of_a_base_model_from_a_package(packed):
    assert load(packed).model_licence == "Apache-2.0"


def test_a_stage_that_has_not_run_is_named(packed):
    packed.record_path("sample").unlink()
    with pytest.raises(MissingInputError, match=r"stages/sample\.json does not exist"):
        load(packed)


def test_the_record_to_delete_is_that_of_the_stage_that_wrote_the_file(packed):
    atomic_write(packed.run_dir / "examples.jsonl", "changed")
    message = r"examples\.jsonl is not the file that the stage evaluate read or wrote.*delete its record stages/evaluate\.json"
    with pytest.raises(HashMismatchError, match=message):
        load(packed)


def test_stages_that_disagree_on_a_file_are_named(packed):
    path = packed.record_path("train")
    record = read_json(path, "")
    record["inputs"][WEIGHTS] = "0" * 64
    write_json(path, record)
    with pytest.raises(
        HashMismatchError, match=r"model\.safetensors is not the file that the stage train read.*fetch\.json"
    ):
        load(packed)
