"""Datasets as people have them, each through preprocess with the default model's tokenizer."""
