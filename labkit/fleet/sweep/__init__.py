"""Grids of measurements on one machine or a Ray cluster."""
