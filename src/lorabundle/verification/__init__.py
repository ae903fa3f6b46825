"""Verification: checks of a submission. Imports submission and the layers below."""
