"""Draw a shot with boxes and names, two rungs side by side, and encode it as JPEG."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.annotate import draw_detections
from labkit.core.types import Detections
from labkit.live.player import Shot
from labkit.live.settings import LiveSettings

QUALITY = 80


def annotate_shot(shot: Shot, settings: LiveSettings) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the frame with the boxes; with two rungs, two of them beside one another.

    The settings say which boxes are drawn, and whether the picture is mirrored (the names are not).
    """
    parts = []
    image = np.ascontiguousarray(shot.frame.image[:, ::-1]) if settings.mirror else shot.frame.image
    for answer in shot.answers:
        # Right after a change of size the last answer may refer to frames of another size.
        if answer is None or tuple(answer.found.frame_size) != shot.frame.size:
            parts.append(image)
        else:
            found = shown_detections(answer.found, settings)
            parts.append(draw_detections(image, mirrored(found) if settings.mirror else found))
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image as JPEG."""
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def shown_detections(found: Detections, settings: LiveSettings) -> Detections:
    """The detections that are drawn: those above the threshold and of the chosen classes."""
    names = enumerate(found.name)
    return found.take(
        [i for i, name in names if found.score[i] >= settings.threshold and settings.draws(name)]
    )


def mirrored(found: Detections) -> Detections:
    """The detections in the frame as a mirror shows it."""
    width = np.float32(found.frame_size[0])
    x_min, y_min, x_max, y_max = found.xyxy.T
    return replace(found, xyxy=np.stack([width - x_max, y_min, width - x_min, y_max], axis=1))


def describe_detections(shot: Shot, settings: LiveSettings) -> list[str]:
    """Detections of each rung in words, best first, as alternative text."""
    lines = []
    for answer in shot.answers:
        if answer is None:
            lines.append("")
            continue
        found = shown_detections(answer.found, settings)
        order = np.argsort(-found.score, kind="stable").tolist()
        lines.append(", ".join(f"{found.name[i]} {found.score[i]:.2f}" for i in order))
    return lines
