"""Schedules (generators: frames in, (frame, detections) out) and the ladder of rungs."""

from labkit.pipelines.ladder import LADDER, PEERS, rung, rungs_of_stage

__all__ = ["LADDER", "PEERS", "rung", "rungs_of_stage"]
