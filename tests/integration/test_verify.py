"""The submission of the real smoke run: checked, and changed in every file."""

import random
from pathlib import Path

from lorabundle import verify
from tests.packed import contents, flipped, write_tarball

ARCHIVE = Path("archive/submission-smoke.tar.gz")


def test_the_submission_is_verified(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    assert verify.compare_all(ARCHIVE, "report") == []


def test_a_flipped_byte_is_found_in_each_file(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project.folder)
    files = contents(ARCHIVE)
    changed = tmp_path / "changed.tar.gz"
    places = random.Random(0)
    for name, data in files.items():
        write_tarball(changed, files | {name: flipped(data, places.randrange(len(data)))})
        differences = verify.unpack(changed, "hashes")
        assert differences if name == "SHA256SUMS" else [d.where for d in differences] == [name], name
    print(f"{len(files)} flips, {len(files)} found")
    assert len(files) > 60
