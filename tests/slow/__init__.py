"""Tests that take minutes: `make test-slow`, `test-resume`, `test-portable`, `test-aarch64`."""

import lorabundle  # noqa: F401  first, because torch reads its settings when it is imported
