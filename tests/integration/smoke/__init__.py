"""Tests that look at one finished smoke run on the default model."""
