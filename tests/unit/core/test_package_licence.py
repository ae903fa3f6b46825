"""Licences as packages state them."""

from email.message import Message

import pytest

from lorabundle.core.package_licence import stated_licences

BSD, MIT = "License :: OSI Approved :: BSD License", "License :: OSI Approved :: MIT License"
FULL_TEXT = "Copyright (c) somebody\n\nRedistribution and use in source and binary forms"


def package(**headers: str | list[str]) -> Message:
    """Metadata of a package; an underscore in a header's name stands for a hyphen."""
    message = Message()
    for name, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"License_Expression": "MIT AND 0BSD", "License": "other", "Classifier": BSD}, ["MIT AND 0BSD"]),
        ({"License": "BSD-3-Clause", "Classifier": BSD}, ["BSD-3-Clause"]),
        ({"License": "BSD", "Classifier": BSD}, ["BSD"]),
        ({"License": "  Apache License, Version 2.0\n"}, ["Apache License, Version 2.0"]),
        ({"License": FULL_TEXT, "Classifier": BSD}, ["BSD License"]),
        ({"License": FULL_TEXT}, []),
        ({"License": "", "Classifier": BSD}, ["BSD License"]),
        ({"Classifier": [BSD, "Topic :: Text Processing", MIT]}, ["BSD License", "MIT License"]),
        ({"Classifier": "Programming Language :: Python"}, []),
        ({}, []),
    ],
    ids=[
        "SPDX expression",
        "SPDX id",
        "short text, as sympy has it",
        "line breaks around a short text",
        "full text with a classifier",
        "full text only",
        "empty field",
        "several classifiers",
        "no classifier of a licence",
        "nothing",
    ],
)
def test_what_a_package_states(headers, expected):
    assert stated_licences(package(**headers)) == expected
