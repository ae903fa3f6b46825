"""Tests that open the report in a browser; `make test-browser` runs them."""
