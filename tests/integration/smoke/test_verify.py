"""The submission of the real smoke run: checked, and changed in every file."""

import random

from lorabundle import verify
from lorabundle.verification.hash_checks import check_files
from tests.fake_submission import ARCHIVE, flipped, unpacked


def test_the_submission_is_verified(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    findings = verify.check(ARCHIVE, "report")
    assert (findings.differences, findings.failures) == ([], {})


def test_a_flipped_byte_is_found_in_each_file(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    submission = unpacked()
    positions = random.Random(0)
    for name in submission.paths():
        path = submission.folder / name
        data = path.read_bytes()
        path.write_bytes(flipped(data, positions.randrange(len(data))))
        found = [difference.where for difference in check_files(submission)]
        assert found if name == "SHA256SUMS" else found == [name], name
        path.write_bytes(data)
    assert len(submission.paths()) > 60
