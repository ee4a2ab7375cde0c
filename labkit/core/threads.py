"""Environment for processes whose idle threads wait passively."""

from __future__ import annotations

PASSIVE_WAIT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Environment in which waiting threads do not spin; else those of torch, OpenCV and engines fight for cores.

It has to stand before torch is loaded, so whoever sets it imports it from here, which loads nothing.
"""
