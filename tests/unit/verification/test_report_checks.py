"""What people read is rendered again from the run's files: report, list of results, documents."""

import pytest

from lorabundle import archive
from lorabundle.core import config
from lorabundle.core.errors import MissingInputError
from lorabundle.core.files import atomic_write
from lorabundle.verification.report_checks import check_documents, check_report
from tests.fake_submission import lines, record_outputs, tampered, unpacked


def test_an_untouched_archive_has_no_difference(shipped):
    assert check_report(unpacked()) == check_documents(unpacked()) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("outputs/smoke/environment.json", b"Linux", b"Other", "reports/results.md, rendered again"),
        ("reports/results.md", b"2.0000", b"3.0000", "reports/results.md, rendered again"),
        ("reports/figures/loss.svg", b"<svg", b"<Svg", "reports/figures/loss.svg, rendered again"),
        ("reports/figures/more.svg", b"", b"<svg", "reports/figures/more.svg, rendered again: expected no such file"),
        ("outputs/smoke/RESULTS.sha256", b"# ", b"# 0", "RESULTS.sha256, written again"),
        ("outputs/smoke/RESULTS.sha256", b"\n", b"\nchecked by someone\n", "RESULTS.sha256, written again"),
        ("outputs/smoke/RESULTS.sha256", b"\n", b"\xff\n", "RESULTS.sha256, written again"),
    ],
)
def test_a_report_that_does_not_follow_is_found(shipped, name, old, new, where):
    found = lines(check_report(unpacked(tampered(shipped, name, old, new))))
    assert any(line.startswith(where) for line in found), found


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("outputs/smoke/stages/train.json", b"60.0", b"30.0", "REPRODUCE.md, packed again"),
        ("REPRODUCE.md", b"smoke", b"other", "REPRODUCE.md, packed again"),
        ("CHECKLIST.md", b"No", b"Yes", "CHECKLIST.md, packed again"),
        ("LICENSES.md", b"Apache", b"Other", "LICENSES.md, packed again"),
        ("sbom.cdx.json", b'"version"', b'"Version"', "sbom.cdx.json, packed again"),
        ("provenance.intoto.json", b"digest", b"Digest", "provenance.intoto.json, packed again"),
        ("ro-crate-metadata.json", b"CreateAction", b"createAction", "ro-crate-metadata.json, packed again"),
        ("more.md", b"", b"more", "more.md, packed again: expected no such file"),
    ],
)
def test_documents_that_do_not_follow_are_found(shipped, name, old, new, where):
    found = lines(check_documents(unpacked(tampered(shipped, name, old, new))))
    assert any(line.startswith(where) for line in found), found


def test_a_file_of_the_reports_folder_that_the_report_lacks_is_found(shipped, packed):
    """A record may name it: the report is rendered again all the same."""
    atomic_write(config.REPORTS / "figures/claims.html", "99 %")
    record_outputs(packed, "report", config.REPORTS, packed.run_dir / "RESULTS.sha256")
    archive.run(packed)
    (line,) = lines(check_report(unpacked()))
    assert line.startswith("reports/figures/claims.html, rendered again: expected no such file")


def test_expected_numbers_of_the_source_tree_are_no_part_of_the_report(shipped):
    assert check_report(unpacked({"reports/reference/smoke.json": b"{}"})) == []


@pytest.mark.parametrize("name", ["src/lorabundle/train.py", "LICENSE", "outputs/smoke/RESULTS.sha256"])
def test_documents_that_name_a_file_need_it(shipped, name):
    submission = unpacked()
    (submission.folder / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        check_documents(submission)
