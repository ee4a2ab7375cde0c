"""Names of the sources that a live view offers: the lab's own, and the cameras of this machine."""

from __future__ import annotations

import time

from labkit.core.errors import UnavailableError
from labkit.sources.camera_list import DEVICES, list_cameras

LOOK_S = 5.0
"""Cameras are looked for this often: plugging one in shows in the menu soon."""
_ANEW_S = 60.0  # asking a camera wakes it, so it is done seldom while the same ones are there

_looked_s = _asked_s = float("-inf")
_there: list[str] = []
_cameras: list[dict[str, str]] = []


def known_sources() -> list[dict[str, str]]:
    """Sources to choose from: `spec`, as `open_source` takes it, and `title`, as a person calls it."""
    global _looked_s, _asked_s, _there, _cameras
    now_s = time.monotonic()
    if now_s - _looked_s > LOOK_S:
        _looked_s, before = now_s, _there
        _there = sorted(str(path) for path in DEVICES.glob("video*"))
        if _there != before or now_s - _asked_s > _ANEW_S:
            _asked_s, _cameras = now_s, cameras()
    return [
        {"spec": "browser", "title": "camera of this browser"},
        *(_cameras or [{"spec": "webcam", "title": "camera of the machine"}]),
        {"spec": "photos", "title": "photographs"},
        {"spec": "scenes", "title": "drawn scenes"},
    ]


def cameras() -> list[dict[str, str]]:
    """The cameras of this machine by name, with the largest size; empty where they cannot be listed."""
    try:
        listed = list_cameras()
    except UnavailableError:
        return []
    titles = [
        f"{camera.name} ({camera.spec}){', ' if camera.modes else ''}{camera.offers(most=1, rest=False)}"
        for camera in listed
    ]
    return [{"spec": camera.spec, "title": title} for camera, title in zip(listed, titles, strict=True)]
