"""Tests that take minutes: `make test-slow`, `test-resume`, `test-portable`."""

import lorabundle  # noqa: F401  first, because torch reads its settings when it is imported
