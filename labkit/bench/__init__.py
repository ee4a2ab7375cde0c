"""Benchmarks: rungs in, stored runs and comparisons out.

This is what `labkit bench`, `labkit compare` and the notebooks call. Every rung works in a
process of its own; its answers are compared with its reference's before it is timed; each
finished run is stored at once, so that an interruption loses only what was under way.
"""

from labkit.bench.job import Outcome
from labkit.bench.whole import bench, compare_two
from labkit.reporter import Reporter

__all__ = ["Outcome", "Reporter", "bench", "compare_two"]
