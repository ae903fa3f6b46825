"""Core: settings, errors, files and what every stage shares. Imports no other package."""
