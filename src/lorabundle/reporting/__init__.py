"""Reporting: from result files to Markdown, HTML and figures. Imports core and evaluation."""
