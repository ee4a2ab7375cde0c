"""Recorded videos through many engines, detections as Parquet."""
