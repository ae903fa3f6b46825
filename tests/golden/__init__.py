"""Results that any CPU must reproduce to the byte: `make test-golden`."""
