"""Where frames come from: cameras, recordings, photographs, synthetic scenes.

One call opens any of them, `open_source(spec)`; every source is a context manager and an
iterator of `Frame`s, RGB and of one size.
"""

from labkit.sources.convert import to_rgb
from labkit.sources.opening import first_frame, open_source
from labkit.sources.source import Source
from labkit.sources.spec import redact

__all__ = ["Source", "first_frame", "open_source", "redact", "to_rgb"]
