"""Names of the sources that a live view offers: the lab's own, and the cameras of this machine."""

from __future__ import annotations

import time
from pathlib import Path

VIDEO_DEVICES = Path("/sys/class/video4linux")
LOOK_S = 5.0
"""Cameras are looked for this often: plugging one in shows in the menu soon."""

_last: tuple[float, list[dict[str, str]]] | None = None


def known_sources() -> list[dict[str, str]]:
    """Sources to choose from: `spec`, as `open_source` takes it, and `title`, as a person calls it."""
    global _last
    now_s = time.monotonic()
    if _last is None or now_s - _last[0] > LOOK_S:
        _last = now_s, cameras()
    return [
        {"spec": "browser", "title": "camera of this browser"},
        *(_last[1] or [{"spec": "webcam:0", "title": "camera of the machine (webcam:0)"}]),
        {"spec": "photos", "title": "photographs"},
        {"spec": "scenes", "title": "drawn scenes"},
    ]


def cameras() -> list[dict[str, str]]:
    """The cameras that Linux lists, by name; empty on other systems, which tell no names by files."""
    found = []
    for device in sorted(VIDEO_DEVICES.glob("video*"), key=lambda path: (len(path.name), path.name)):
        try:
            # A camera has several devices; those with a higher index carry no pictures.
            if (device / "index").read_text(encoding="utf-8").strip() != "0":
                continue
            name = (device / "name").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        spec = f"webcam:{device.name.removeprefix('video')}"
        found.append({"spec": spec, "title": f"{name[:60] or 'camera'} ({spec})"})
    return found
