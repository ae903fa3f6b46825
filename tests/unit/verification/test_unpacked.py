"""An unpacked submission: its files, and which of the paths that it names are followed."""

from pathlib import Path

import pytest

from lorabundle.core.files import atomic_write
from lorabundle.verification.unpacked import Submission, is_plain


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/processed/train/data.arrow", True),
        ("ünïcode/名前", True),
        ("../outside", False),
        ("outputs/../../outside", False),
        ("/etc/hostname", False),
        ("a\0b", False),
        ("a\nb", False),
        ("\ud800", False),
        ("x" * 255, True),
        ("x" * 256, False),
        ("é" * 128, False),
        ("x/" * 513, False),
    ],
)
def test_paths_that_stay_below_the_folder(path, expected):
    assert is_plain(path) == expected


def test_files_of_a_submission(tmp_path):
    for name in ("outputs/smoke/metrics.json", "LICENSE", ".ci/run"):
        atomic_write(tmp_path / name, "")
    submission = Submission(tmp_path, "smoke")
    assert submission.paths() == [".ci/run", "LICENSE", "outputs/smoke/metrics.json"]
    assert submission.run_dir == tmp_path / "outputs/smoke"
    assert submission.listing == Path(tmp_path, "outputs/smoke/RESULTS.sha256")
