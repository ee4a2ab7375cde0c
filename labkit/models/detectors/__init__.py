"""Detectors: one file per family, one row per detector; `catalogue` finds every file of this folder."""
