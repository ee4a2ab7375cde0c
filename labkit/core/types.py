"""Frame, Detections, Rung and the other shared records, validated when they are made.

Units and layouts are part of the names: `xyxy` is (x_min, y_min, x_max, y_max) in pixels
of the original frame, `t_s` is seconds on `time.perf_counter`, sizes are (width, height).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError, UnavailableError, UsageError

Size = tuple[int, int]
"""(width, height) in pixels."""

Fit = Literal["letterbox", "crop", "stretch", "none"]
"""Ways to bring an image to the size of the frames: whole with bars beside it, its centre, squeezed, not."""
FITS: tuple[Fit, ...] = ("letterbox", "crop", "stretch", "none")


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One image on its way through a pipeline.

    Attributes:
        image: (H, W, 3) uint8 RGB, C-contiguous, in host memory.
        index: position in the stream, from 0; spans and results are keyed by it.
        t_s: when it was captured or was due, in seconds on `time.perf_counter`.
        truth: ground truth, where the source knows it (synthetic scenes).
        time_s: its own time in a recording, in seconds from the start (presentation time stamp).
        placed: where the original's pixels are in `image`; None where it is the original.
        size: (width, height) in pixels.

    Raises:
        FrameError: the image has another shape, type or layout.

    Example:
        >>> import labkit, numpy as np
        >>> labkit.Frame(np.zeros((480, 640, 3), np.uint8), index=0, t_s=0.0).size
        (640, 480)
    """

    image: NDArray[np.uint8]
    index: int
    t_s: float
    truth: Detections | None = None
    time_s: float | None = None
    placed: Placement | None = None
    size: Size = field(init=False)

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise FrameError(f"a frame's image is a uint8 array, not {describe_value(image)}")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise FrameError(f"a frame's image has the shape (H, W, 3), not {image.shape}")
        if not image.flags.c_contiguous:
            raise FrameError("a frame's image is C-contiguous; use numpy.ascontiguousarray")
        object.__setattr__(self, "size", (image.shape[1], image.shape[0]))

    def __repr__(self) -> str:
        """Its number, size and time: the pixels would fill a page."""
        width, height = self.size
        return f"Frame(index={self.index}, {width}x{height} px, t_s={self.t_s:.3f})"


@dataclass(frozen=True, eq=False, slots=True)
class Detections:
    """Detections in one frame: N boxes with a score and a name each.

    Classification of a whole frame is N = 1 with the frame as its box, so drawing and comparison
    are the same for classifiers and detectors.

    Attributes:
        xyxy: (N, 4) float32 px, inside the frame.
        score: (N,) float32 in [0, 1].
        label: (N,) int64, index into the model's own label list.
        name: N strings, the names of `label`.
        frame_size: (width, height) of the frame that the boxes refer to.
        fine_label, fine_score, fine_name: a classifier's label for each crop, or None.
        track_id: (N,) int64, the same number for the same object in other frames, or None.

    Example:
        >>> import labkit
        >>> len(labkit.Detections.empty((640, 480)))
        0
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int64]
    name: tuple[str, ...]
    frame_size: Size
    fine_label: NDArray[np.int64] | None = None
    fine_score: NDArray[np.float32] | None = None
    fine_name: tuple[str, ...] | None = None
    track_id: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.name)
        arrays: list[tuple[str, Any, tuple[int, ...], type]] = [
            ("xyxy", self.xyxy, (n, 4), np.float32),
            ("score", self.score, (n,), np.float32),
            ("label", self.label, (n,), np.int64),
        ]
        without = {self.fine_label is None, self.fine_score is None, self.fine_name is None}
        if len(without) > 1:
            raise UsageError("fine_label, fine_score and fine_name come together or not at all")
        if self.fine_name is not None:
            arrays += [
                ("fine_label", self.fine_label, (n,), np.int64),
                ("fine_score", self.fine_score, (n,), np.float32),
            ]
            if len(self.fine_name) != n:
                raise UsageError(f"{n} boxes but {len(self.fine_name)} fine names")
        if self.track_id is not None:
            arrays.append(("track_id", self.track_id, (n,), np.int64))
        for name, array, shape, dtype in arrays:
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                raise UsageError(f"{name} is {np.dtype(dtype)} {shape}, not {describe_value(array)}")
        if n and not (np.isfinite(self.xyxy).all() and np.isfinite(self.score).all()):
            raise UsageError("boxes and scores are finite numbers; this output holds NaN or infinity")
        width, height = self.frame_size
        x_min, y_min, x_max, y_max = self.xyxy.T
        inside = (x_min >= 0) & (y_min >= 0) & (x_max <= width) & (y_max <= height)
        if ((x_min > x_max) | (y_min > y_max)).any():
            raise UsageError(SWAPPED)
        if not inside.all():
            raise UsageError(f"boxes lie inside the {width}x{height} frame; clip them first")

    def __len__(self) -> int:
        return len(self.name)

    def take(self, which: NDArray[np.intp] | list[int]) -> Detections:
        """The detections at the positions `which`, in that order."""
        which = np.asarray(which, dtype=np.intp)
        fine: dict[str, Any] = {}
        if self.fine_label is not None and self.fine_score is not None and self.fine_name is not None:
            fine = {
                "fine_label": self.fine_label[which],
                "fine_score": self.fine_score[which],
                "fine_name": tuple(self.fine_name[i] for i in which),
            }
        return replace(
            self,
            xyxy=self.xyxy[which],
            score=self.score[which],
            label=self.label[which],
            name=tuple(self.name[i] for i in which),
            track_id=None if self.track_id is None else self.track_id[which],
            **fine,
        )

    def with_fine(
        self, label: NDArray[np.int64], score: NDArray[np.float32], name: tuple[str, ...]
    ) -> Detections:
        """The same boxes with a classifier's label, score and name for each."""
        return replace(self, fine_label=label, fine_score=score, fine_name=name)

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, to draw, count and track with that package.

        Names are in its `data["class_name"]`; a classifier's answers in `data["fine_label"]`,
        `data["fine_score"]` and `data["fine_name"]`; `track_id` is its `tracker_id`.

        Raises:
            UnavailableError: the package is not installed.
        """
        data: dict[str, Any] = {"class_name": np.array(self.name, dtype=str)}
        if self.fine_label is not None and self.fine_score is not None:
            data |= {"fine_label": self.fine_label.copy(), "fine_score": self.fine_score.copy()}
            data["fine_name"] = np.array(self.fine_name, dtype=str)
        return _supervision().Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.score.copy(),
            class_id=self.label.copy(),
            tracker_id=None if self.track_id is None else self.track_id.copy(),
            data=data,
        )

    @classmethod
    def from_supervision(
        cls, found: Any, frame_size: Size, names: Sequence[str] | Mapping[int, str] = ()
    ) -> Detections:
        """Detections of a `supervision.Detections`; boxes are clipped to the frame.

        Args:
            found: what a model or tracker of that package gave, or `to_supervision`.
            frame_size: (width, height) px of the frame, which it does not know.
            names: of its class ids, where its `data["class_name"]` does not hold them.

        A missing score is 1, a missing class id 0; a class without a name is "class 3". Masks are left out.

        Raises:
            UsageError: its boxes are no corners, or a tracker has not numbered all of them.
        """
        n = len(found.xyxy)
        ids = found.tracker_id
        if ids is not None and any(each is None or each != each for each in ids):
            raise UsageError("some boxes have no tracker_id; keep those that have one: found[numbered]")
        label = np.zeros(n, np.int64) if found.class_id is None else np.asarray(found.class_id, np.int64)
        named = found.data.get("class_name")
        named = class_names(label, names) if named is None else named
        fine: dict[str, Any] = {}
        if {"fine_label", "fine_score", "fine_name"} <= found.data.keys():
            fine = {
                "fine_label": np.asarray(found.data["fine_label"], np.int64),
                "fine_score": np.asarray(found.data["fine_score"], np.float32),
                "fine_name": tuple(map(str, found.data["fine_name"])),
            }
        score = np.ones(n) if found.confidence is None else np.asarray(found.confidence)
        return cls(
            xyxy=clip_boxes(np.asarray(found.xyxy, np.float32).reshape(n, 4), frame_size),
            score=score.astype(np.float32),
            label=label,
            name=tuple(str(name) for name in named),
            frame_size=frame_size,
            track_id=None if ids is None else np.asarray(ids, np.int64),
            **fine,
        )

    @classmethod
    def empty(cls, frame_size: Size) -> Detections:
        """No detections in a frame of `frame_size` (width, height)."""
        return cls(
            np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), (), frame_size
        )


SWAPPED = (
    "boxes are (N, 4) corners x_min, y_min, x_max, y_max; here x_max < x_min or y_max < y_min: "
    "centre, width and height?"
)


def clip_boxes(xyxy: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """(N, 4) corners in px, cut off at the edges of a frame of `size`.

    Raises:
        UsageError: some are no corners: their minimum lies above their maximum.
    """
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        raise UsageError(SWAPPED)
    return np.clip(xyxy, 0, np.array([*size, *size], np.float32))


def class_names(label: NDArray[np.int64], names: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    """Names of (N,) labels; "class 3" for a number that has none."""
    known = names if isinstance(names, Mapping) else range(len(names))
    return tuple(names[i] if i in known else f"class {i}" for i in label.tolist())


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise UnavailableError(
            f"this needs the package supervision: pip install 'labkit[supervision]' ({error})"
        ) from error
    return supervision


@dataclass(frozen=True)
class Placement:
    """Placement of an original in a frame: its pixel (x, y) is at (x, y) * scale + corner.

    Attributes:
        original, frame: sizes, (width, height) px.
        scale: along x and y.
        corner: x and y of the original's upper left corner in the frame, px; below 0 where it is cut.
    """

    original: Size
    frame: Size
    scale: tuple[float, float]
    corner: tuple[float, float]

    def boxes(self, xywh: NDArray[np.float64]) -> NDArray[np.float32]:
        """(N, 4) x, y, width, height px in the original -> corners (N, 4) px in the frame, inside it."""
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        placed = corners * np.tile(self.scale, 2) + np.tile(self.corner, 2)
        return np.clip(placed, 0, np.tile(self.frame, 2)).astype(np.float32)

    def to_original(self, found: Detections) -> Detections:
        """Detections in the frame, with boxes in pixels of the original."""
        corners = (found.xyxy.astype(np.float64) - np.tile(self.corner, 2)) / np.tile(self.scale, 2)
        inside = np.clip(corners, 0, np.tile(self.original, 2)).astype(np.float32)
        return replace(found, xyxy=inside, frame_size=self.original)


Task = Literal["classify", "detect", "combined"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


MAX_RADIUS = 16
"""Of a filter's window, px: up to here whole-number sums fit 32 bits and a tile fits shared memory."""


@dataclass(frozen=True)
class FilterStep:
    """A guided filter over every frame before the networks see it.

    Attributes:
        version: which version computes it, e.g. "numba" or "cuda-fused".
        radius: of the window, px.
        eps: in squared intensity of images in [0, 1].
        where: "host", "round_trip" (up to the device and back, memory made anew for each frame),
            "device" (on the bytes that were uploaded), "input" (on the device, ending in the
            detector's normalised input), or "graph" (the same, as part of the networks' engine).
    """

    version: str
    radius: int = 4
    eps: float = 0.01
    where: Literal["host", "round_trip", "device", "input", "graph"] = "host"

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= MAX_RADIUS:
            raise UsageError(
                f"a filter's radius is a whole number from 1 to {MAX_RADIUS} px, not {self.radius!r}"
            )
        if not self.eps > 0:
            raise UsageError(f"a filter's eps is above 0, e.g. 0.01; not {self.eps!r}")

    def describe(self) -> dict[str, Any]:
        """Plain data for fingerprints and cache keys."""
        return {
            "filter": self.version,
            "filter_radius": self.radius,
            "filter_eps": self.eps,
            "filter_where": self.where,
        }


MAX_GROUP = 64
"""Largest number of frames in one pass; more gain nothing and raise latency."""


@dataclass(frozen=True)
class Preparation:
    """Preparation of a rung's networks, as data.

    Attributes:
        task: classify the frame, detect objects, or detect and classify each.
        preprocess: which implementation turns an image into the model's input.
        device: "cpu" or "cuda".
        engine: what runs the network ("eager", "onnxruntime", "openvino", "compile", ...).
        precision: number format of weights and activations inside the engine.
        form: what the schedule is handed: "parts" (a detector and a classifier to call one after
            the other), "whole_frame" (both behind one call), "streamed" (the same with every step
            on a stream of its own), "staged" (detector and classifier on streams of their own),
            "peer" (another library's own pipeline), or "own" (nothing but the names of labels: a
            user's loop that brings its own networks).
        filter: what is done to each frame first, or None.
        options: further switches of the engine, e.g. {"channels_last": True}.
    """

    task: Task
    preprocess: str = "opencv"
    device: str = "cpu"
    engine: str = "eager"
    precision: Precision = "fp32"
    form: Literal["parts", "whole_frame", "streamed", "staged", "peer", "own"] = "parts"
    filter: FilterStep | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Plain data for fingerprints and cache keys."""
        return {
            "task": self.task,
            "preprocess": self.preprocess,
            "device": self.device,
            "engine": self.engine,
            "precision": self.precision,
            "form": self.form,
            **(self.filter.describe() if self.filter is not None else {}),
            **{key: self.options[key] for key in sorted(self.options)},
        }

    @property
    def group(self) -> int:
        """Number of frames that go through the detector at once."""
        frames = self.options.get("frames", 1)
        if not (isinstance(frames, int) and 1 <= frames <= MAX_GROUP):
            raise UsageError(f"a group is a number of frames from 1 to {MAX_GROUP}, not {frames!r}")
        return frames

    @property
    def compiles(self) -> bool:
        """True if preparation takes minutes, in which kernels are chosen and built."""
        return self.engine in ("compile", "tensorrt") or "compile" in self.options

    @property
    def work(self) -> str:
        """The task with its input size and filter; only rungs of the same work are compared."""
        if "resize" in self.options:
            return f"{self.task}, enlarged to {self.options['resize']} px"
        if self.filter is None:
            return self.task
        return f"{self.task}, smoothed (radius {self.filter.radius} px, eps {self.filter.eps:g})"


MOST_OBJECTS = 100
"""Boxes that can be kept of a frame."""


@dataclass(frozen=True)
class Workload:
    """Models, weights and frames of a run: the part of a measurement that the rung does not decide.

    Attributes:
        model_set: "full" (DETR-R50, ResNet-18) or "lab" (the small models in the package).
        weights: "auto" (pretrained where they can be had, else random), "pretrained", "random".
        size: (width, height) of the frames.
        fit: how images of another shape are brought to that size.
        objects: number of best-scoring boxes kept per frame; fixes the cost of naming them.
        threshold: lowest score that is kept; for live use, 0 in benchmarks.
        seed: of random weights and of synthetic sources.
        detector, classifier: names of others than the full set's own; None for those.
    """

    model_set: Literal["full", "lab"] = "full"
    weights: Literal["auto", "pretrained", "random"] = "auto"
    size: Size = (640, 480)
    objects: int = 5
    threshold: float = 0.0
    seed: int = 0
    fit: Fit = "letterbox"
    detector: str | None = None
    classifier: str | None = None

    def __post_init__(self) -> None:
        if self.model_set == "lab" and (self.detector or self.classifier):
            named = self.detector or self.classifier
            raise UsageError(f"the lab set has its own two models; {named} goes with model_set 'full'")
        if self.fit not in FITS:
            raise UsageError(f"fit is {', '.join(FITS)}, not {self.fit!r}")
        if self.model_set not in ("full", "lab"):
            raise UsageError(f"model_set is 'full' or 'lab', not {self.model_set!r}")
        if self.weights not in ("auto", "pretrained", "random"):
            raise UsageError(f"weights is 'auto', 'pretrained' or 'random', not {self.weights!r}")
        if not is_whole(self.objects, 0, MOST_OBJECTS):
            raise UsageError(f"objects is a number of boxes from 0 to {MOST_OBJECTS}, not {self.objects!r}")
        if not is_number(self.threshold, 0, 1):
            raise UsageError(f"threshold is a score from 0 to 1, not {self.threshold!r}")
        if not is_whole(self.seed, -(2**63), 2**64):
            raise UsageError(f"seed is a whole number, not {self.seed!r}")
        for kind, name in (("detector", self.detector), ("classifier", self.classifier)):
            if not isinstance(name, str | None):
                raise UsageError(f"{kind} is the name of one, not {name!r}; labkit weights lists them")
        sides = self.size if isinstance(self.size, tuple | list) else ()
        if len(sides) != 2 or not all(is_whole(side, 1, 16384) for side in sides):
            raise UsageError(f"size is (width, height) from 1 to 16384 px, not {self.size!r}")


class WorkOptions(TypedDict, total=False):
    """Keywords for frames and models, the same wherever something is measured; see `labkit.bench`."""

    source: str
    size: Size
    fit: Fit
    objects: int
    model_set: str
    detector: str | None
    classifier: str | None
    weights: str
    seed: int
    open_timeout_s: float
    read_timeout_s: float


def read_work(options: WorkOptions) -> tuple[str, Workload, dict[str, float]]:
    """Source, workload, and time-outs of the source, from keywords.

    Raises:
        UsageError: there is no such keyword, or a value is out of range.
    """
    if unknown := options.keys() - WorkOptions.__annotations__:
        known = ", ".join(WorkOptions.__annotations__)
        raise UsageError(f"there is no option {min(unknown)}; frames and models have {known}")
    rest: dict[str, Any] = dict(options)
    waits: tuple[str, ...] = ("open_timeout_s", "read_timeout_s")
    timeouts = {name: rest.pop(name) for name in waits if name in rest}
    for name, value in timeouts.items():
        check_timeout(name, value)
    return rest.pop("source", "photos"), Workload(**rest), timeouts


def check_timeout(name: str, value: Any) -> None:
    """Checks a longest wait for a source, in s.

    Raises:
        UsageError: it is no number above 0, or too long.
    """
    if not is_positive(value, 3600):
        option = name.removesuffix("_s").replace("_", "-")
        raise UsageError(f"{name} (--{option}) is above 0 and at most 3600 s, not {value!r}")


Schedule = Callable[[Iterable[Frame], Any], Iterator[tuple[Frame, Detections]]]
"""A pipeline: frames and prepared networks in, (frame, detections) out, in order."""


@dataclass(frozen=True)
class Rung:
    """One row of the ladder.

    Attributes:
        name: unique, as typed on the command line.
        stage: the notebook that tells its story.
        run: the schedule, a generator function at module level.
        prepare: how its networks are made ready.
        changes: name of the rung that it changes one thing of, or None for a first rung.
        reference: name of the rung whose answers it must agree with; its own name for a reference.
        about: the one thing that it changes, in a sentence.
        needs: requirements of the machine ("cuda", "openvino", ...).
    """

    name: str
    stage: int
    run: Schedule
    prepare: Preparation
    changes: str | None
    reference: str
    about: str
    needs: tuple[str, ...] = ()


def is_number(value: Any, low: float, high: float = inf) -> bool:
    """True for a number, NumPy's too, from `low` to `high`; True and False are none."""
    kinds = int | float | np.integer | np.floating
    return isinstance(value, kinds) and not isinstance(value, bool) and bool(low <= value <= high)


def is_positive(value: Any, high: float = inf) -> bool:
    """True for a number above 0, to `high`."""
    return is_number(value, 0, high) and bool(value)


def is_whole(value: Any, low: float, high: float = inf) -> bool:
    """True for a whole number, NumPy's too, from `low` to `high`."""
    return isinstance(value, int | np.integer) and is_number(value, low, high)


def describe_value(value: Any) -> str:
    """Type and shape of an array, these of a few in a tuple, or the type of anything else, for messages."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, tuple) and 1 < len(value) < 5:
        return f"({', '.join(map(describe_value, value))})"
    return type(value).__name__
