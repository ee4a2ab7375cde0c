"""Every detector of transformers by name, found in the files of the folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import labkit.models.detectors as folder
from labkit.models.detectors.detector_row import DetectorRow


@cache
def detectors() -> dict[str, DetectorRow]:
    """The row of each detector beside DETR-R50, by name."""
    files = sorted(found.name for found in pkgutil.iter_modules(folder.__path__))
    modules = [importlib.import_module(f"{folder.__name__}.{name}") for name in files]
    return {row.name: row for module in modules for row in getattr(module, "ROWS", ())}
