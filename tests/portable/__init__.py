"""Portable numerics on other CPUs: `make test-portable`."""
