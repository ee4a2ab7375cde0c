"""Telemetry of other libraries, switched off: nothing here phones home."""

from __future__ import annotations

import os
import sys


def switch_off_telemetry() -> None:
    """Makes OpenVINO and NNCF send nothing, and leave no id in the home folder.

    Call it before either is imported. Both send through a package of its own and do without where it
    cannot be imported; NNCF's variable alone comes too late, since the id is written on import.
    """
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
