"""The live view: a camera with boxes, names and honest figures, in a notebook or a plain page."""

from labkit.live.opening import live

__all__ = ["live"]
