"""The smoke run with portable numerics, which `make test-golden` has just made, compared with `reports/reference/smoke.json`."""

import json

from lorabundle.verification.hash_checks import read_sums
from tests.conftest import ROOT


def test_smoke_run_gives_the_reference_bytes():
    reference = json.loads((ROOT / "reports/reference/smoke.json").read_text())
    found = read_sums(ROOT / "outputs/smoke/RESULTS.sha256")
    assert {path: found.get(path) for path in reference["results"]} == reference["results"]
    assert len(reference["results"]) == 6
