"""Benchmarks: timed runs and interleaved comparisons, each rung in a process of its own."""
