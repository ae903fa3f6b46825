"""The default model, as `make fetch` leaves it."""

from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def fetched() -> Path:
    """The default model, which `make test` has fetched."""
    model = ROOT / "data/models/smollm2-135m-phi3"
    assert (model / "provenance.json").is_file(), "the default model is missing: run the tests with `make test`"
    return model
