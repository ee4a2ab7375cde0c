"""OpenVINO's one Core of this process, and its telemetry switched off: nothing here phones home."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from threading import Lock
from typing import Any

_making = Lock()


def openvino_core() -> Any:
    """The `openvino.Core` that everything in this process is compiled with; it is never taken down.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signals, and unmaps that stack when it
    is unloaded, also where the thread still uses it: of two plugins, if the first ends first, or in another
    thread. The next signal, such as a Ctrl-C, then ends the process without a word.
    """
    with _making:
        return _core()


@lru_cache(maxsize=1)
def _core() -> Any:
    switch_off_telemetry()
    import openvino

    return openvino.Core()


def switch_off_telemetry() -> None:
    """Makes OpenVINO and NNCF send nothing, and leave no id in the home folder.

    Call it before either is imported. Both send through a package of its own and do without where it
    cannot be imported; NNCF's variable alone comes too late, since the id is written on import.
    """
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
