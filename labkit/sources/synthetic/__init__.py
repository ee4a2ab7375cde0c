"""Synthetic scenes with ground truth."""
