"""Benchmark of a fleet against a single process."""
