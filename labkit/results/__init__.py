"""Stored runs and comparisons, their tables, plots and reports."""
