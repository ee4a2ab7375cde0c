"""Profiling one cell or one rung: where the time goes, and who waits for whom.

    %load_ext labkit.profiling

    origin = story.pipeline("baseline_combined_cpu")

    %%profile before
    for frame, found in origin():
        pass

Nsight Systems watches where it can, torch.profiler otherwise; either way the same table per
range, timeline, and list of the source lines that make the host read a tensor.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension"]


def load_ipython_extension(ipython: Any) -> None:
    """Gives a notebook the cell magic `%%profile`."""
    from labkit.profiling.cell import profile_magic

    ipython.register_magic_function(profile_magic(ipython), "cell", "profile")
