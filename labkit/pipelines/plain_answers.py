"""Read what a user's loop answers, in any usual form, as `Detections`.

| form | example |
|---|---|
| `Detections` | the lab's own |
| a dictionary | `{"boxes": ..., "scores": ..., "labels": ...}`, as torchvision and transformers give |
| a list of these | `[{"box": {"xmin": ...}, "score": ..., "label": ...}]`, as transformers' pipeline gives |
| boxes and more | `(boxes, scores, labels)`, `(boxes, labels)`, or boxes alone |
| a name | `"dog"`, or `(label, score)`: a classifier's answer for the whole frame |
| another library's | anything with `xyxy`, `confidence` and `class_id` |

Boxes are (N, 4) corners x_min, y_min, x_max, y_max in px of the frame; labels are numbers, or names.
Arrays, tensors of any device and lists are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError
from labkit.core.types import Detections, Size, class_names, clip_boxes, describe_value

_SPELLINGS = {
    "boxes": ("boxes", "xyxy", "bboxes"),
    "scores": ("scores", "score", "confidence"),
    "labels": ("labels", "label", "class_id", "class_ids", "classes", "names", "name"),
    "fine": ("fine_labels", "fine_label", "fine_names", "fine_name"),
    "fine_scores": ("fine_scores", "fine_score"),
}
_CORNERS = "boxes are (N, 4) numbers: x_min, y_min, x_max, y_max in px of the frame"
_LARGEST_LABEL = 2**31
_RELATIVE = 1.5  # boxes of a frame of many px that all lie below this are shares of its width and height


def as_detections(
    answer: Any, size: Size, names: Sequence[str] = (), fine_names: Sequence[str] = ()
) -> Detections:
    """A loop's answer for one frame as `Detections`; parts of boxes outside the frame are cut off.

    Args:
        answer: see the table above.
        size: (width, height) px of the frame.
        names: what the labels' numbers stand for; also gives the numbers of labels that are names.
        fine_names: the same for the names that a classifier gives to each box.

    Raises:
        UsageError: it is none of these forms; the message says what was found where.
    """
    if isinstance(answer, Detections):
        return answer
    parts = _parts(answer)
    if "boxes" not in parts:
        parts["boxes"] = np.array([[0, 0, *size]], np.float32)
        parts = {key: value if key == "boxes" else [value] for key, value in parts.items()}
    boxes = _boxes(parts["boxes"], size)
    n = len(boxes)
    label, name = _labels(parts.get("labels"), n, names)
    found = Detections(boxes, _scores(parts.get("scores"), n), label, name, size)
    if "fine" in parts:
        label, name = _labels(parts["fine"], n, fine_names)
        found = found.with_fine(label, _scores(parts.get("fine_scores"), n), name)
    return found


def _parts(answer: Any) -> dict[str, Any]:
    """The answer's parts by their names in `_SPELLINGS`; without boxes it is about the whole frame."""
    if isinstance(answer, str):
        return {"labels": answer}
    if isinstance(answer, Mapping):
        return _spelled(answer)
    if all(hasattr(answer, name) for name in ("xyxy", "confidence", "class_id")):
        return _spelled({name: getattr(answer, name) for name in ("xyxy", "confidence", "class_id")})
    if isinstance(answer, list) and answer and all(isinstance(each, Mapping) for each in answer):
        return _listed(answer)
    if isinstance(answer, tuple) and len(answer) in (1, 2) and _is_single(answer[0]):
        return dict(zip(("labels", "scores"), answer, strict=False))
    if isinstance(answer, tuple) and len(answer) in (2, 3) and _numbers(answer[0], _CORNERS).ndim != 1:
        return dict(zip(("boxes", "scores", "labels")[:: 1 if len(answer) == 3 else 2], answer, strict=True))
    if isinstance(answer, int | np.integer) or (hasattr(answer, "ndim") and _is_single(answer)):
        return {"labels": answer}
    if answer is None:
        raise UsageError(
            "the answer is None; a loop of frames yields frame, found, and a function of one image returns "
            "found (for no boxes: an array of shape (0, 4))"
        )
    if isinstance(answer, Iterator):
        raise UsageError(
            f"the answer is a {type(answer).__name__}; for a loop of frames hand over the generator function "
            "itself, with yield in it"
        )
    return {"boxes": answer}


def _spelled(answer: Mapping[str, Any]) -> dict[str, Any]:
    known = {spelling: part for part, spellings in _SPELLINGS.items() for spelling in spellings}
    parts = {known[key]: value for key, value in answer.items() if key in known and value is not None}
    many = [value for value in parts.values() if not _is_single(value) and len(value) != 1]
    if not parts or ("boxes" not in parts and many):
        found = ", ".join(repr(key) for key, value in answer.items() if value is not None) or "nothing"
        raise UsageError(f"a dictionary of detections has boxes, scores and labels, not {found}")
    return parts


def _listed(answer: list[Mapping[str, Any]]) -> dict[str, Any]:
    """One dictionary per box, as transformers' pipeline answers."""
    try:
        return {
            "boxes": [[each["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for each in answer],
            "scores": [each["score"] for each in answer],
            "labels": [each["label"] for each in answer],
        }
    except (KeyError, TypeError) as error:
        raise UsageError(
            "a list of dictionaries has a box (xmin, ymin, xmax, ymax), a score and a label in each; where "
            "there is one dictionary for each picture of a batch, yield that of this frame, e.g. found[0]"
        ) from error


def _is_single(value: Any) -> bool:
    """Whether it is one number or name, also as an array of one; a list of whatever lengths is none."""
    return not isinstance(value, list | tuple | Mapping) and np.shape(_plain(value)) in ((), (1,))


def _plain(value: Any) -> Any:
    """A tensor of any device as an array; everything else as it is."""
    if not hasattr(value, "detach"):
        return value
    if value.is_meta:
        raise UsageError("a tensor on the meta device has a shape and no numbers")
    tensor = value.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _boxes(value: Any, size: Size) -> NDArray[np.float32]:
    boxes = _numbers(value, _CORNERS)
    if boxes.size == 0:
        return np.empty((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"{_CORNERS}, not {describe_value(boxes)}")
    if not np.isfinite(boxes).all():
        raise UsageError("boxes are finite numbers; these hold NaN or infinity")
    if np.abs(boxes).max() <= _RELATIVE < min(size) / 2:
        raise UsageError(
            f"{_CORNERS}; these lie between {boxes.min():.2f} and {boxes.max():.2f}: "
            "multiply them by the frame's width and height"
        )
    return clip_boxes(boxes, size)


def _scores(value: Any, n: int) -> NDArray[np.float32]:
    if value is None:
        return np.ones(n, np.float32)
    scores = _numbers(value, "scores are numbers from 0 to 1").reshape(-1)
    if len(scores) != n:
        raise UsageError(f"{n} boxes but {len(scores)} scores")
    if np.isnan(scores).any():
        raise UsageError("scores are numbers from 0 to 1; these hold NaN")
    if not ((scores >= 0) & (scores <= 1 + 1e-6)).all():
        raise UsageError(
            f"scores are from 0 to 1, not {scores.min():.3g} to {scores.max():.3g}; "
            "are these logits, before softmax or sigmoid?"
        )
    return np.minimum(scores, np.float32(1))


def _numbers(value: Any, wanted: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(_plain(value), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{wanted}, not {describe_value(value)}") from error


def _labels(value: Any, n: int, names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if value is None:
        return np.zeros(n, np.int64), ("object",) * n
    flat = list(np.asarray(_plain(value)).reshape(-1))
    if len(flat) != n:
        raise UsageError(f"{n} boxes but {len(flat)} labels")
    if all(isinstance(each, str) for each in flat):
        numbers = {name: i for i, name in enumerate(names)}
        return np.array([numbers.get(name, -1) for name in flat], np.int64), tuple(map(str, flat))
    try:
        whole = all(float(each).is_integer() for each in flat)
    except (TypeError, ValueError) as error:
        kinds = ", ".join(sorted({describe_value(each) for each in flat}))
        raise UsageError(f"labels are whole numbers or names, not {kinds}") from error
    if not whole:
        raise UsageError(
            "labels are whole numbers or names, not numbers with a fraction, or NaN; of a tuple they are the "
            "last part: (boxes, labels) or (boxes, scores, labels)"
        )
    if any(abs(int(each)) > _LARGEST_LABEL for each in flat):
        raise UsageError(f"labels are numbers of classes, up to {_LARGEST_LABEL}, not {max(map(int, flat))}")
    label = np.array(flat, np.int64).reshape(n)
    return label, class_names(label, names)
