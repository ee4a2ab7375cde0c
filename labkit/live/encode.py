"""Draw a shot with boxes and names, two rungs side by side, and encode it as JPEG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labkit.core.annotate import draw_detections
from labkit.live.player import Shot

QUALITY = 80


def annotate_shot(shot: Shot, threshold: float) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the frame with the boxes; with two rungs, two of them beside one another."""
    parts = []
    for answer in shot.answers:
        # Right after a change of size the last answer may refer to frames of another size.
        if answer is None or tuple(answer.found.frame_size) != shot.frame.size:
            parts.append(shot.frame.image)
        else:
            parts.append(draw_detections(shot.frame.image, answer.found, min_score=threshold))
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image as JPEG."""
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def describe_detections(shot: Shot, threshold: float) -> list[str]:
    """Detections of each rung in words, best first, as alternative text."""
    lines = []
    for answer in shot.answers:
        if answer is None:
            lines.append("")
            continue
        found = answer.found
        order = np.argsort(-found.score, kind="stable").tolist()
        lines.append(
            ", ".join(f"{found.name[i]} {found.score[i]:.2f}" for i in order if found.score[i] >= threshold)
        )
    return lines
