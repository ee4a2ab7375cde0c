"""Settings of a live view, validated when they are set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

from labkit.core.errors import UsageError
from labkit.core.types import Rung, Size

ModelSet = Literal["auto", "full", "lab"]
FilterName = Literal["none", "guided", "edges"]
WeightsWanted = Literal["auto", "pretrained", "random"]
SIZES: tuple[Size, ...] = ((320, 240), (640, 480), (1280, 720))
"""Sizes that the view offers; any other can be given when it is opened."""
OBJECTS = (1, 2, 3, 5, 10, 20)
"""Numbers of boxes that the view offers."""


@dataclass(frozen=True)
class LiveSettings:
    """The settings of a live view.

    Attributes:
        rung: name of the rung whose answers are shown; "auto" until the best one is known.
        second: name of a rung shown beside it on the same frames, or None.
        model_set: "full" or "lab"; "auto" until it is known which can recognise something.
        detector, classifier, weights: as in `Workload`; not for pages to change.
        size: (width, height) px of the frames.
        threshold: boxes that score less are not drawn.
        objects: boxes that are kept and named per frame, from 1 to 100.
        classes: names of the classes whose boxes are drawn; all of them if it is empty.
        mirror: show the picture as a mirror would; what detects sees it as it is.
        filter: put each frame through this filter before anything sees it.
        radius: of the guided filter, px.
        eps: of the guided filter, squared intensity on [0, 1].
    """

    rung: str = "auto"
    second: str | None = None
    model_set: ModelSet = "auto"
    detector: str | None = None
    classifier: str | None = None
    weights: WeightsWanted = "auto"
    size: Size = (640, 480)
    threshold: float = 0.5
    objects: int = 5
    classes: tuple[str, ...] = ()
    mirror: bool = False
    filter: FilterName = "none"
    radius: int = 4
    eps: float = 0.01

    def __post_init__(self) -> None:
        if self.model_set not in ("auto", "full", "lab"):
            raise UsageError(f"the model set is 'full' or 'lab', not {self.model_set!r}")
        if self.weights not in ("auto", "pretrained", "random"):
            raise UsageError(f"weights is 'auto', 'pretrained' or 'random', not {self.weights!r}")
        if not _is_number(self.threshold) or not 0 <= self.threshold <= 1:
            raise UsageError(f"the threshold is a score from 0 to 1, not {self.threshold!r}")
        if isinstance(self.radius, bool) or not isinstance(self.radius, int) or not 1 <= self.radius <= 16:
            raise UsageError(f"the filter's radius is a whole number from 1 to 16 px, not {self.radius!r}")
        if not _is_number(self.eps) or not 0 < self.eps <= 1:
            raise UsageError(f"the filter's eps is above 0 and at most 1, not {self.eps!r}")
        if self.second == self.rung:
            raise UsageError(f"two different rungs are compared, not {self.rung} with itself")
        if not isinstance(self.mirror, bool):
            raise UsageError(f"mirror is True or False, not {self.mirror!r}")
        if self.filter not in ("none", "guided", "edges"):
            raise UsageError(f"the filter is 'none', 'guided' or 'edges', not {self.filter!r}")
        if (
            isinstance(self.objects, bool)
            or not isinstance(self.objects, int)
            or not 1 <= self.objects <= 100
        ):
            raise UsageError(f"objects is a number of boxes from 1 to 100, not {self.objects!r}")
        width, height = self.size
        if not (16 <= width <= 4096 and 16 <= height <= 4096):
            raise UsageError(f"the live view's size is (width, height) from 16 to 4096 px, not {self.size}")

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the rungs that run."""
        return (self.rung,) if self.second is None else (self.rung, self.second)

    def changed(self, wanted: Mapping[str, Any]) -> LiveSettings:
        """A copy with the named settings changed, as they come from a page.

        Raises:
            UsageError: A name or a value is not accepted.
        """
        from labkit.pipelines.ladder import rung

        known = {field.name for field in fields(self)} - {"weights", "detector", "classifier"}
        unknown = set(wanted) - known
        if unknown:
            raise UsageError(
                f"the live view has no setting {min(unknown)!r}; it has {', '.join(sorted(known))}"
            )
        values = dict(wanted)
        for name in ("rung", "second"):
            if values.get(name) is not None:
                rung(str(values[name]))
        if "rung" in values and values["rung"] is None:
            raise UsageError("a rung is named by its name; labkit rungs lists them")
        if "size" in values:
            values["size"] = _pair(values["size"])
        if "classes" in values:
            values["classes"] = _names(values["classes"])
        if values.get("model_set") not in (None, self.model_set):
            values["weights"] = "auto"  # whoever chooses a set wants it as good as it can be had
            if values["model_set"] == "lab":
                values |= {"detector": None, "classifier": None}
        return replace(self, **values)

    def draws(self, name: str) -> bool:
        """True if boxes of the class of that name are drawn."""
        return not self.classes or name in self.classes

    def reshapes(self, wanted: Mapping[str, Any]) -> bool:
        """True if these settings would give the pictures another size."""
        return bool({"size", "second"} & set(wanted))

    def resolved(self) -> LiveSettings:
        """The same with the best rung and model set in the place of "auto"; imports the ladder."""
        settings = self
        if settings.rung == "auto":
            settings = replace(settings, rung=default_rung(but=settings.second).name)
        if settings.model_set == "auto" and (
            settings.weights != "auto" or settings.detector or settings.classifier
        ):
            settings = replace(settings, model_set="full")  # only that set has a choice of weights and models
        if settings.model_set == "auto":
            model_set, weights = default_models()
            settings = replace(settings, model_set=model_set, weights=weights)
        return settings

    def describe(self) -> dict[str, Any]:
        """Plain data for a page."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "size": list(self.size), "classes": list(self.classes),
        }  # fmt: skip


# The quickest first; none filters, holds frames back, or takes minutes to prepare.
LIVE_RUNGS = ("graph_cuda", "cpu_engine_bf16", "folded_cpu", "combined_cpu")


def default_rung(but: str | None = None) -> Rung:
    """The best rung for a live view here: it finds and names, hardly rounds, and is soon prepared.

    Args:
        but: name of a rung that is shown already.
    """
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import rung

    return next(r for r in map(rung, LIVE_RUNGS) if unmet_requirement(r.needs) is None and r.name != but)


def default_models() -> tuple[ModelSet, WeightsWanted]:
    """Model set and weights that recognise something: pretrained ones, cached or fetched, else the lab's."""
    from labkit.models.weights import LAB_FOLDER, MODELS, have_pretrained

    if have_pretrained(MODELS["full"]):
        return "full", "auto"
    if all((LAB_FOLDER / part / "model.safetensors").is_file() for part in ("detr", "resnet")):
        return "lab", "auto"
    return "full", "random"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _pair(value: Any) -> Size:
    try:
        width, height = value
        return int(width), int(height)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"a size is (width, height) in px, not {value!r}") from error


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 1000 or not all(isinstance(n, str) for n in value):
        raise UsageError(f"classes is a list of names, not {str(value)[:80]!r}")
    return tuple(value)


def choices(settings: LiveSettings) -> dict[str, Any]:
    """Rungs, model sets, sizes and numbers of boxes to choose from, as plain data.

    The ladder takes seconds to import, so until the view's own thread has done it there is
    only what is set.
    """
    if "labkit.pipelines.ladder" in sys.modules and settings.rung != "auto":
        from labkit.pipelines.ladder import OWN_RUNGS

        own = [{**_NO_ROW, "name": name, "about": each.about} for name, each in OWN_RUNGS.items()]
        rungs = own + list(_rungs())
    else:
        rungs = [{**_NO_ROW, "name": settings.rung}]
    sizes = list(dict.fromkeys([*SIZES, settings.size]))
    return {
        "rungs": rungs,
        "model_sets": ["full", "lab"],
        "sizes": [list(size) for size in sizes],
        "objects": sorted({*OBJECTS, settings.objects}),
    }


_NO_ROW = {"about": "", "stage": None, "unavailable": None}


@lru_cache(maxsize=1)
def _rungs() -> list[dict[str, Any]]:
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import LADDER

    return [
        {"name": r.name, "about": r.about, "stage": r.stage, "unavailable": unmet_requirement(r.needs)}
        for r in LADDER
    ]
