"""The licences that a Python package states in its own metadata. Nothing is looked up or guessed.

Specification: packaging.python.org, Core metadata: License-Expression, License, Classifier.
"""

from email.message import Message


def stated_licences(metadata: Message) -> list[str]:
    """The licences in a package's metadata, from the first of these that it has; [] if it has none.

    1. `License-Expression`, an SPDX expression;
    2. `License`, if it is one line: some packages put the text of the licence there, whose first line need not name it;
    3. the classifiers that begin with `License`, one licence each.
    """
    for field in ("License-Expression", "License"):
        text = (metadata.get(field) or "").strip()
        if text and "\n" not in text:
            return [text]
    classifiers = metadata.get_all("Classifier", [])
    return [value.split(" :: ")[-1] for value in classifiers if value.startswith("License ::")]
