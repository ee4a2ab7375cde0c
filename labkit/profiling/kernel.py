"""A Jupyter kernel that runs under `nsys launch`, ready to be watched cell by cell.

`install()` writes its description; Jupyter then starts it by running this module, which
becomes nsys, which starts the ordinary kernel. Nothing is watched until a `%%profile` asks.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from contextlib import suppress
from pathlib import Path

from labkit.core.child import end_with, lives
from labkit.core.errors import UnavailableError
from labkit.profiling import nsys

NAME = "labkit-nsys"
PREFIX = "labkit-"  # of session names; the launching process's id follows
WITHIN = "--within"
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
    """Kernel specification for Jupyter."""
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
    owner = str(os.getpid())  # nsys takes over this process
    kernel = [sys.executable, "-m", "labkit.profiling.kernel", WITHIN, owner, *arguments]
    return found.launch(f"{PREFIX}{owner}", kernel)


def end_abandoned(found: nsys.Nsys) -> list[str]:
    """Ends the sessions of kernels that were killed: nsys would keep a process for each of them.

    Returns:
        The names of the sessions ended.
    """
    ended = []
    for session in found.sessions():
        owner = session.removeprefix(PREFIX)
        if session.startswith(PREFIX) and owner.isdigit() and not lives(int(owner)):
            found.shut_down(session)
            ended.append(session)
    return ended


def run_within(owner: int, arguments: list[str]) -> None:
    """Runs the ordinary kernel in this process for as long as nsys, its owner, lives.

    Who kills a kernel kills nsys; the kernel must not live on with the ports of its successor.
    """
    end_with(owner)
    sys.argv = ["ipykernel_launcher", *arguments]
    runpy.run_module("ipykernel_launcher", run_name="__main__")


def main(arguments: list[str]) -> None:
    """Becomes nsys, or, started by it, the kernel."""
    if arguments[:1] == [WITHIN]:
        return run_within(int(arguments[1]), arguments[2:])
    line = command(arguments)
    with suppress(UnavailableError):  # a kernel starts all the same if old ones cannot be cleared away
        end_abandoned(nsys.Nsys(Path(line[0]), ()))
    os.execv(line[0], line)


if __name__ == "__main__":
    main(sys.argv[1:])
