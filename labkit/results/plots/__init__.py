"""Plots of runs and comparisons: each function returns a figure with its alt text."""
