"""Evaluation: metrics, intervals, aggregates and sanity checks. Imports core, model and compute."""
