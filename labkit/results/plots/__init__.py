"""Results as figures: each function takes records and returns a figure with its alt text."""

from labkit.results.plots.breakdown import latency, throughput, where_time_goes
from labkit.results.plots.by_boxes import cost_of_boxes
from labkit.results.plots.labels import accuracy_of
from labkit.results.plots.roofline import roofline
from labkit.results.plots.save import overview, save, save_all, svg_text
from labkit.results.plots.speedup import compare_two, waterfall
from labkit.results.plots.style import Chart
from labkit.results.plots.timeline import timeline
from labkit.results.plots.tradeoffs import share_of_peak, speed_accuracy

__all__ = [
    "Chart",
    "accuracy_of",
    "compare_two",
    "cost_of_boxes",
    "latency",
    "overview",
    "roofline",
    "save",
    "save_all",
    "share_of_peak",
    "speed_accuracy",
    "svg_text",
    "throughput",
    "timeline",
    "waterfall",
    "where_time_goes",
]
