"""Drawn scenes whose boxes and labels are known."""
