"""Measurements of our code compared with the stock libraries: `make bench`."""

import lorabundle  # noqa: F401  first, because torch reads its settings when it is imported
