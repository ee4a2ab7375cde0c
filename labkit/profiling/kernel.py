"""A Jupyter kernel that runs under `nsys launch`, ready to be watched cell by cell.

`install()` writes its description; Jupyter then starts it by running this module, which
becomes nsys, which starts the ordinary kernel. Nothing is watched until a `%%profile` asks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from labkit.errors import UnavailableError
from labkit.profiling import nsys

NAME = "labkit-nsys"
DISPLAY_NAME = "Python 3 under nsys"


def install(folder: Path | None = None) -> Path:
    """Writes the kernel's description for this Python.

    Args:
        folder: of kernels; default: the one of this environment (`share/jupyter/kernels`).

    Returns:
        The folder written.
    """
    place = (folder or Path(sys.prefix) / "share" / "jupyter" / "kernels") / NAME
    place.mkdir(parents=True, exist_ok=True)
    (place / "kernel.json").write_text(json.dumps(description(), indent=1) + "\n")
    return place


def description() -> dict[str, object]:
    """What Jupyter needs to start the kernel."""
    return {
        "argv": [sys.executable, "-m", "labkit.profiling.kernel", "-f", "{connection_file}"],
        "display_name": DISPLAY_NAME,
        "language": "python",
        "interrupt_mode": "message",  # a signal would end nsys, not the cell
        "metadata": {"debugger": False},
    }


def command(arguments: list[str]) -> list[str]:
    """The command line that starts the kernel under nsys.

    Raises:
        UnavailableError: there is no nsys.
    """
    found = nsys.find()
    if found is None:
        raise UnavailableError("nsys was not found; choose the kernel 'Python 3' instead")
    kernel = [sys.executable, "-m", "ipykernel_launcher", *arguments]
    return found.launch(f"labkit-{os.getpid()}", kernel)


if __name__ == "__main__":
    line = command(sys.argv[1:])
    os.execv(line[0], line)
