"""Results as figures: each function takes records and returns a figure with its alt text."""

from labkit.plots.answers import accuracy_of
from labkit.plots.boxes import cost_of_boxes
from labkit.plots.gains import compare_two, waterfall
from labkit.plots.parts import latency, throughput, where_time_goes
from labkit.plots.roof import roofline
from labkit.plots.saving import overview, save, save_all, svg_text
from labkit.plots.style import Chart
from labkit.plots.timeline import timeline
from labkit.plots.tradeoffs import share_of_peak, speed_accuracy

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
