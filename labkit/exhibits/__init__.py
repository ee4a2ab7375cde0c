"""The museum of wrong measurements: each exhibit does it the wrong way and the right way.

from labkit.exhibits import visit
for exhibit in visit():
    print(exhibit.sentence)
"""

from labkit.exhibits.observer import GOAL_US, span_cost_us
from labkit.exhibits.picture import picture
from labkit.exhibits.record import Exhibit
from labkit.exhibits.recorded import write_recorded
from labkit.exhibits.registry import EXHIBITS, Case, case, table, visit
from labkit.exhibits.stand import Stand

__all__ = [
    "EXHIBITS",
    "GOAL_US",
    "Case",
    "Exhibit",
    "Stand",
    "case",
    "picture",
    "span_cost_us",
    "table",
    "visit",
    "write_recorded",
]
