"""Measurements beside the stock libraries: `make bench`."""

import lorabundle  # noqa: F401  first, because it sets what torch reads when it is imported
