"""Settings of a live view, validated when they are set, and what there is to choose from."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.types import Rung, Size, Workload, is_number, is_positive, is_whole
from labkit.models.packaged_weights import PACKAGED, packaged_file
from labkit.sources.camera_list import DEVICES, CameraInfo, list_cameras
from labkit.sources.spec import DRAWN

ModelSet = Literal["auto", "full", "lab"]
FilterName = Literal["none", "guided", "edges"]
WeightsWanted = Literal["auto", "pretrained", "random"]
SIZES: tuple[Size, ...] = ((320, 240), (640, 480), (1280, 720))
"""Sizes that the view offers; any other can be given when it is opened."""
THRESHOLD, WHOLE_FRAME_THRESHOLD = 0.5, 0.15
"""Scores from which on boxes, and names of whole frames among a thousand, are drawn by default."""
OBJECTS = (1, 2, 3, 5, 10, 20)
"""Numbers of boxes that the view offers."""


@dataclass(frozen=True)
class LiveSettings:
    """The settings of a live view.

    Attributes:
        rung: name of the rung whose answers are shown; "auto" until the best one is known.
        second: name of a rung shown beside it on the same frames, or None.
        model_set: "full" or "lab"; "auto": what can recognise something in the source.
        detector, classifier, weights: as in `Workload`; not for pages to change.
        stand_in: the lab's models are there for want of any that know such pictures; not to be asked for.
        size: (width, height) px of the frames.
        threshold: what scores less is not drawn; None until it is known what is found.
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
    stand_in: bool = False
    size: Size = (640, 480)
    threshold: float | None = None
    objects: int = 5
    classes: tuple[str, ...] = ()
    mirror: bool = False
    filter: FilterName = "none"
    radius: int = 4
    eps: float = 0.01

    def __post_init__(self) -> None:
        for name, sentence, fits in _RULES:
            value = getattr(self, name)
            if not fits(value):
                raise UsageError(f"{sentence}, not {value!r}")
        if self.second == self.rung:
            raise UsageError(f"two different rungs are compared, not {self.rung} with itself")

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

        known = {field.name for field in fields(self)} - {"weights", "detector", "classifier", "stand_in"}
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
            if values["model_set"] != "full":
                values |= {"detector": None, "classifier": None}
        return replace(self, **values)

    def draws(self, name: str) -> bool:
        """True if boxes of the class of that name are drawn."""
        return not self.classes or name in self.classes

    def resolved(self, source: str) -> LiveSettings:
        """The same with what recognises something in a source in the place of "auto"; imports the ladder.

        Names come from models that know such pictures: pretrained ones, or the lab's for what it
        draws. Where there are none for the rung, the lab's `stand_in`.
        """
        settings = self
        if self.model_set != "auto":
            pass
        elif self.weights != "auto" or self.detector or self.classifier:
            settings = replace(self, model_set="full")  # only that set has a choice of weights and models
        elif source in DRAWN:
            settings = replace(self, model_set="lab")
        elif default_model_set(_tasks(self.rungs)) == "full":
            settings = replace(self, model_set="full")
        elif packaged_file() is not None and _name_whole_frames(self.rungs):
            settings = replace(self, model_set="full", classifier=PACKAGED)
        else:
            settings = replace(self, model_set="lab", stand_in=True)
        if settings.rung == "auto":
            among = WHOLE_FRAME_RUNGS if settings.only_classifies() else LIVE_RUNGS
            settings = replace(settings, rung=default_rung(among, but=settings.second).name)
        if settings.threshold is None:
            threshold = WHOLE_FRAME_THRESHOLD if _name_whole_frames(settings.rungs) else THRESHOLD
            settings = replace(settings, threshold=threshold)
        return settings

    def only_classifies(self) -> bool:
        """True if the classifier of the models is pretrained here, and the detector is not."""
        from labkit.models.weights import have_pretrained, models_of

        if self.model_set != "full" or self.weights == "random":
            return False
        detector, classifier = models_of(Workload(detector=self.detector, classifier=self.classifier))
        return have_pretrained([classifier]) and not have_pretrained([detector])

    def describe(self) -> dict[str, Any]:
        """Plain data for a page."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "size": list(self.size), "classes": list(self.classes),
        }  # fmt: skip


# The quickest first; none filters, holds frames back, or takes minutes to prepare.
LIVE_RUNGS = ("graph_cuda", "cpu_engine_bf16", "folded_cpu", "combined_cpu")
WHOLE_FRAME_RUNGS = ("resnet_cuda", "resnet_opencv_cpu", "resnet_linear_cpu")
"""Rungs for weights of which only the classifier knows anything: it names the frame as a whole."""


def _name_whole_frames(rungs: Iterable[str]) -> bool:
    from labkit.pipelines.ladder import rung

    return all(name == "auto" or rung(name).prepare.task == "classify" for name in rungs)


def default_rung(among: Iterable[str] = LIVE_RUNGS, but: str | None = None) -> Rung:
    """The best rung for a live view here: it finds and names, hardly rounds, and is soon prepared.

    Args:
        among: names, the best one first.
        but: name of a rung that is shown already.
    """
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import rung

    return next(r for r in map(rung, among) if unmet_requirement(r.needs) is None and r.name != but)


def default_model_set(tasks: Iterable[str]) -> Literal["full", "lab"]:
    """The model set that recognises something: the full one where it is pretrained, cached or fetched.

    Args:
        tasks: of the rungs, whose models are looked for and no others.
    """
    from labkit.models.weights import have_pretrained, models_for

    models = dict.fromkeys(model for task in tasks for model in models_for(task, Workload()).values())
    return "full" if have_pretrained(list(models)) else "lab"


def _tasks(rungs: Iterable[str]) -> list[str]:
    from labkit.pipelines.ladder import rung

    return ["combined" if name == "auto" else rung(name).prepare.task for name in rungs]


def _is_size(value: Any) -> bool:
    return len(value) == 2 and all(is_whole(side, 16, 4096) for side in value)


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("model_set", "the model set is 'auto', 'full' or 'lab'", lambda v: v in ("auto", "full", "lab")),
    (
        "weights",
        "weights is 'auto', 'pretrained' or 'random'",
        lambda v: v in ("auto", "pretrained", "random"),
    ),
    ("threshold", "the threshold is a score from 0 to 1", lambda v: v is None or is_number(v, 0, 1)),
    ("radius", "the filter's radius is a whole number from 1 to 16 px", lambda v: is_whole(v, 1, 16)),
    ("eps", "the filter's eps is above 0 and at most 1", lambda v: is_positive(v, 1)),
    ("mirror", "mirror is True or False", lambda v: isinstance(v, bool)),
    ("filter", "the filter is 'none', 'guided' or 'edges'", lambda v: v in ("none", "guided", "edges")),
    ("objects", "objects is a number of boxes from 1 to 100", lambda v: is_whole(v, 1, 100)),
    ("size", "the live view's size is (width, height) from 16 to 4096 px", _is_size),
)


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
    rungs = [_row(settings.rung)]
    if "labkit.pipelines.ladder" in sys.modules and settings.rung != "auto":
        from labkit.pipelines.ladder import OWN_RUNGS

        rungs = [_row(each.name, each.about) for each in OWN_RUNGS.values()] + list(_ladder())
    return {
        "rungs": rungs,
        "model_sets": ["auto", "full", "lab"],
        "sizes": [list(size) for size in dict.fromkeys([*SIZES, settings.size])],
        "objects": sorted({*OBJECTS, settings.objects}),
    }


def _row(
    name: str, about: str = "", stage: int | None = None, unavailable: str | None = None
) -> dict[str, Any]:
    return {"name": name, "about": about, "stage": stage, "unavailable": unavailable}


@lru_cache(maxsize=1)
def _ladder() -> list[dict[str, Any]]:
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import LADDER, about_here

    by_stage = sorted(LADDER, key=lambda each: each.stage)
    return [_row(r.name, about_here(r), r.stage, unmet_requirement(r.needs)) for r in by_stage]


class _Cameras:
    """The cameras of this machine, looked for in a thread: a driver that hangs holds up nobody."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []
        self._there: list[str] = []
        self._asked_s = self._looked_s = float("-inf")
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Looks for them now and then; plugging one in shows soon."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S or (self._thread is not None and self._thread.is_alive()):
            return
        self._looked_s, before = now_s, self._there
        self._there = sorted(str(path) for path in DEVICES.glob("video*"))
        if self._there != before or now_s - self._asked_s > ANEW_S:
            self._asked_s = now_s
            self._thread = threading.Thread(target=self._ask, name="labkit live cameras", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        try:
            listed = list_cameras()
        except UnavailableError:
            listed = []
        self.found = [{"spec": each.spec, "title": _title(each)} for each in listed]


def _title(camera: CameraInfo) -> str:
    offers = camera.offers(most=1, rest=False)
    return f"{camera.name} ({camera.spec}){', ' if offers else ''}{offers}"


LOOK_S = 5.0
ANEW_S = 60.0  # asking a camera wakes it, so it is done seldom while the same ones are there
_cameras = _Cameras()


def known_sources() -> list[dict[str, str]]:
    """Sources to choose from: `spec`, as `open_source` takes it, and `title`, as a person calls it."""
    _cameras.look()
    return [
        {"spec": "browser", "title": "camera of this browser"},
        *(_cameras.found or [{"spec": "webcam", "title": "camera of the machine"}]),
        {"spec": "photos", "title": "photographs"},
        {"spec": "scenes", "title": "drawn scenes"},
        {"spec": "closeups", "title": "drawn close-ups"},
    ]
