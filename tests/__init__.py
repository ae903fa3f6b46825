"""Tests of lorabundle."""
