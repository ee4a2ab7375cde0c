"""Films whose frames carry a readable number, for cameras and for what a page shows."""

import numpy as np
from PIL import Image

BITS = 12
HEIGHT_SHARE = 0.5  # the upper half spells the number, so that boxes and names below do not hurt it


def numbered_picture(number, size=(640, 480)):
    """(H, W, 3) uint8: columns of black and white spell the number, lowest bit first."""
    width, height = size
    columns = np.arange(width) * BITS // width
    row = np.where((number >> columns) & 1, 235, 20).astype(np.uint8)
    image = np.full((height, width, 3), 128, np.uint8)
    image[: int(height * HEIGHT_SHARE)] = row[None, :, None]
    return image


def write_mjpeg(path, count, size=(640, 480)):
    """A file of `count` JPEGs, one after the other, as Chromium's fake camera reads them."""
    import io

    with path.open("wb") as file:
        for number in range(1, count + 1):
            out = io.BytesIO()
            Image.fromarray(numbered_picture(number, size)).save(out, "JPEG", quality=90)
            file.write(out.getvalue())
    return path


READ_NUMBER = """
(canvas) => {
  const bits = 12, {width, height} = canvas;
  const y = Math.floor(height / 4);
  const row = canvas.getContext("2d").getImageData(0, y, width, 1).data;
  let number = 0;
  for (let k = 0; k < bits; k++) {
    const x = Math.floor(((2 * k + 1) * width) / (2 * bits));
    if (row[4 * x + 1] > 127) number |= 1 << k;
  }
  return number;
}
"""
"""JavaScript that reads the number back from a canvas."""
