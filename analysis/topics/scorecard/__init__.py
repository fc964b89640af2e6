"""Metrics of trials against a table of bands."""
