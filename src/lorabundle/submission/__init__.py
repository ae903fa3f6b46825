"""Submission: what the tarball holds and the documents about it. Imports reporting and the layers below."""
