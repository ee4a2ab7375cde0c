"""Pipelines (generators: frames in, (frame, detections) out) and the ladder of rungs."""
