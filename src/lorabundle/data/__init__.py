"""Data: from a dataset to validated, de-duplicated, split records. Imports core and model."""
