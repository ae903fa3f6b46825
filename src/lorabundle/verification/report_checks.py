"""Checks of what people read: the report and the archive's documents, against the same files rendered again."""

import contextlib

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import hash_paths, sha256_bytes, sha256_file
from lorabundle.core.fingerprint import LISTING, listing_of, paths
from lorabundle.reporting.report_files import report_files, upper_part
from lorabundle.reporting.results import Results
from lorabundle.reporting.run_files import load_results
from lorabundle.submission.contents import packed_contents, packed_paths
from lorabundle.verification.differences import Difference
from lorabundle.verification.findings import say
from lorabundle.verification.hash_checks import NO_FILE
from lorabundle.verification.reading import read_config
from lorabundle.verification.unpacked import Submission


def check_report(submission: Submission) -> list[Difference]:
    """The files of the report and `RESULTS.sha256`, against what the run's files give."""
    run_config = read_config(submission)
    with contextlib.chdir(submission.folder):
        results = load_results(run_config)
        listing = run_config.run_dir / LISTING
        files = report_files(run_config, results, sha256_file(listing))
        rendered = {f"{config.REPORTS}/{name}": sha256_bytes(content) for name, content in files.items()}
        shown = hash_paths([config.REPORTS])
        expected = _listing(run_config, results).encode()
        found = listing.read_bytes()
    reference = f"{config.REPORTS}/reference/"  # part of the source tree
    say(f"report: {len(files)} files rendered")
    result = [
        Difference(f"{path}, rendered again", rendered.get(path, NO_FILE), shown.get(path, NO_FILE))
        for path in sorted(rendered.keys() | shown.keys())
        if rendered.get(path) != shown.get(path) and not path.startswith(reference)
    ]
    if found != expected:
        result.append(Difference(f"{LISTING}, written again", sha256_bytes(expected), sha256_bytes(found)))
    return result


def _listing(run_config: Config, results: Results) -> str:
    """`RESULTS.sha256` of the archive's files, and of the splits that the record of preprocess names."""
    splits = tuple(f"{config.PROCESSED}/{name}/" for name in config.SPLITS)
    outputs = results.records["preprocess"].part("outputs")
    hashes = {path: digest for path, digest in outputs.items() if path.startswith(splits)}
    shipped = [path for path in paths(run_config) if not path.is_relative_to(config.PROCESSED)]
    return listing_of(hashes | hash_paths(shipped), upper_part(run_config, results))


def check_documents(submission: Submission) -> list[Difference]:
    """Every file against what `make archive` packs of the run's files and the source: above all the documents at the top."""
    run_config = read_config(submission)
    with contextlib.chdir(submission.folder):
        packed = packed_contents(run_config, packed_paths(run_config))
    expected = {name: sha256_bytes(data) for name, data in packed.items()}
    found = {name: sha256_file(submission.folder / name) for name in submission.paths()}
    say(f"report: {len(expected)} files compared with what `make archive` packs")
    return [
        Difference(f"{name}, packed again", expected.get(name, NO_FILE), found.get(name, NO_FILE))
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
