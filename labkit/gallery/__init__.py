"""All notebooks, executed, as pages that can be read anywhere."""

from labkit.gallery.executed import Executed, Gallery
from labkit.gallery.running import MINUTES, execute, write_gallery

__all__ = ["MINUTES", "Executed", "Gallery", "execute", "write_gallery"]
