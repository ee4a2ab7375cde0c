"""The results store, its tables and its exports."""

from labkit.results.exports import Export, export, import_reference, load_export
from labkit.results.store import Prediction, Store, default_path
from labkit.results.table import table

__all__ = [
    "Export",
    "Prediction",
    "Store",
    "default_path",
    "export",
    "import_reference",
    "load_export",
    "table",
]
