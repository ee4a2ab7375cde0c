"""What a measurement leaves behind: raw samples; every statistic is a property of them."""

from labkit.records.comparison import Comparison, Verdict
from labkit.records.fidelity import Fidelity
from labkit.records.run import IMPOSSIBLE, Run, Samples, Scenario

__all__ = ["IMPOSSIBLE", "Comparison", "Fidelity", "Run", "Samples", "Scenario", "Verdict"]
