"""Fast tests on hand-worked cases."""
