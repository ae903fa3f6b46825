"""Measurements beside the stock libraries: `make bench`."""

import logging

logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # at its import it asks for a package that only inference uses
