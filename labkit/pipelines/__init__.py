"""Schedules (generators: frames in, (frame, detections) out) and the ladder of rungs."""

from labkit.pipelines.ladder import LADDER, rung, rungs_of_stage
from labkit.pipelines.peers import PEERS

__all__ = ["LADDER", "PEERS", "rung", "rungs_of_stage"]
