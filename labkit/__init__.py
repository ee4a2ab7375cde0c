"""A lab for real-time image classification and detection: pipelines, measured and explained.

    import labkit

    labkit.doctor()                                       # what this machine has
    labkit.ladder()                                       # all rungs, each one change after another
    result = labkit.bench("resnet_pil_cpu", "resnet_opencv_cpu", quick=True)
    result.table(), result.gains(), result.plot("throughput")
    labkit.bench(my_loop, against="detr_opencv_cpu")      # a loop that you wrote yourself
    labkit.compare("detr_pil_cpu", "detr_opencv_cpu")     # speed-up with its confidence interval
    labkit.profile("baseline_combined_cpu")               # where the time goes
    labkit.live("webcam")                                 # boxes and names in the notebook
    labkit.history("resnet_opencv_cpu")                   # its runs, today's and those before
    labkit.results()                                      # everything that was measured before
    labkit.solution("normalise")                          # of an exercise, folded

A pipeline is a generator: frames in, `(Frame, Detections)` out. A rung is a pipeline with its
networks prepared in one particular way; the ladder is the list of rungs. Every name here is
loaded when it is first used, so that `import labkit` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.bench.check_loop import check
    from labkit.bench.doctor import doctor
    from labkit.bench.run import bench, compare
    from labkit.core.trace import span
    from labkit.core.types import Detections, Frame
    from labkit.lessons.exercise import solution
    from labkit.live.start import live
    from labkit.models.networks import load_network
    from labkit.pipelines.ladder import ladder, rung
    from labkit.profiling.variant import pipeline, profile
    from labkit.results.history import history
    from labkit.results.result_set import results
    from labkit.sources.openers import open_source

__version__ = "0.1.0"
__all__ = [
    "Detections", "Frame", "bench", "check", "compare", "doctor", "history", "ladder", "live",
    "load_network", "open_source", "pipeline", "profile", "results", "rung", "solution", "span",
]  # fmt: skip

_MODULES = {
    "Detections": "core.types",
    "Frame": "core.types",
    "bench": "bench.run",
    "check": "bench.check_loop",
    "compare": "bench.run",
    "doctor": "bench.doctor",
    "history": "results.history",
    "ladder": "pipelines.ladder",
    "live": "live.start",
    "load_network": "models.networks",
    "open_source": "sources.openers",
    "pipeline": "profiling.variant",
    "profile": "profiling.variant",
    "results": "results.result_set",
    "rung": "pipelines.ladder",
    "solution": "lessons.exercise",
    "span": "core.trace",
}


class _Face(ModuleType):
    """The package itself. `labkit.bench` stays the function when the package of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """So that a function that uses `labkit` can be sent to another process."""
        return importlib.import_module, (self.__name__,)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'labkit' has no attribute {name!r}")
    from labkit.core.errors import LabError
    from labkit.core.interrupt import interrupt_after

    try:
        with interrupt_after("the lab was loading"):
            value = getattr(importlib.import_module(f"labkit.{_MODULES[name]}"), name)
    except ImportError as error:
        if "only be initialized once" in str(error):
            raise LabError("torch was interrupted while it was imported: restart the kernel") from None
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Face
