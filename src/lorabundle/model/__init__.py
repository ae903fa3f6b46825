"""Model: the base model's chat template, tokenizer and weights layout. Imports core."""
