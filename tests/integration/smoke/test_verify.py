"""The submission of the real smoke run: checked, and changed in every file."""

import random
from pathlib import Path

from lorabundle import verify
from lorabundle.submission import tarball
from lorabundle.verification import checks
from tests.fake_submission import flipped

ARCHIVE = Path("archive/submission-smoke.tar.gz")


def test_the_submission_is_verified(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    assert verify.check_all(ARCHIVE, "report") == []


def test_a_flipped_byte_is_found_in_each_file(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    tarball.unpack(ARCHIVE, checks.SHIPPED)
    places = random.Random(0)
    files = [path for path in checks.SHIPPED.rglob("*") if path.is_file()]
    for path in files:
        data, name = path.read_bytes(), path.relative_to(checks.SHIPPED).as_posix()
        path.write_bytes(flipped(data, places.randrange(len(data))))
        found = [difference.where for difference in checks.check_files(checks.SHIPPED)]
        assert found if name == "SHA256SUMS" else found == [name], name
        path.write_bytes(data)
    assert len(files) > 60
