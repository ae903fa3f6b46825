"""Training: the trainer, its step, memory and checkpoints. Imports core, model and compute."""
