"""What records of both kinds tell alike: of which machine, and bounds for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def machine_of(fingerprint: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The GPU that did the work, or the processor with its cores."""
    gpu = (fingerprint.get("gpu") or {}).get("name")
    if gpu and settings.get("device") == "cuda":
        return str(gpu)
    if not fingerprint.get("cpu"):
        return "unknown machine"
    return f"{fingerprint['cpu']}, {fingerprint.get('cores', '?')} cores"


def finite(interval: tuple[float, float]) -> list[float | None]:
    """Bounds for JSON, which knows no infinity: None where too few samples give no bound."""
    return [float(bound) if np.isfinite(bound) else None for bound in interval]
