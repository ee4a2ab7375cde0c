"""The results store, its tables and its exports."""

from labkit.results.exports import Export, export, import_reference, load_export, load_exports
from labkit.results.points import SweepPoint, keep_point, sweep_names, sweep_points
from labkit.results.store import Prediction, Store, default_path
from labkit.results.table import table

__all__ = [
    "Export",
    "Prediction",
    "Store",
    "SweepPoint",
    "default_path",
    "export",
    "import_reference",
    "keep_point",
    "load_export",
    "load_exports",
    "sweep_names",
    "sweep_points",
    "table",
]
