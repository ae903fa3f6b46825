"""Compute: how the model is loaded, run and probed on this CPU. Imports core and model."""
