"""Images side by side in one chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.results.plots.style import INK, Chart

PANEL_IN = 3.2
COLUMNS = 3
SHOWN_PX = 800
"""Width of a chart on a notebook's page (CSS px)."""


def letters_px(width_px: int, images: int, shown_px: int = 12) -> int:
    """Height of letters in an image of `width_px` that look `shown_px` high in a grid of so many images."""
    columns = max(1, min(COLUMNS, images))
    return max(shown_px, -(-shown_px * width_px * columns // SHOWN_PX))


def image_grid(
    images: Sequence[NDArray[np.uint8]],
    titles: Sequence[str] = (),
    *,
    columns: int = COLUMNS,
    title: str = "",
) -> Chart:
    """Chart of images in rows, the axes in the order of the images.

    Args:
        images: (H, W, 3) RGB or (H, W) grey uint8 each, of one aspect ratio.
        titles: over the first images.
        columns: number of images per row at most.
        title: of the chart.
    """
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    height, width = images[0].shape[:2]
    row_in = PANEL_IN * height / width + (0.3 if titles else 0.0)
    chart = Chart(figsize=(PANEL_IN * columns, row_in * rows + 0.5), layout="constrained")
    engine: Any = chart.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)
    for i, image in enumerate(images):
        axes: Any = chart.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        if i < len(titles):
            axes.set_title(titles[i], fontsize=9, color=INK)
    if title:
        chart.suptitle(title, fontsize=11, color=INK)
        chart.title = title
    return chart
