"""Tests that take minutes: `make test-slow`, `test-resume`, `test-portable`."""

import lorabundle  # noqa: F401  first, because it sets what torch reads when it is imported
