"""Photographs of which the truth is known: a folder in the format of COCO, as frames.

COCO (T.-Y. Lin et al., 2014) keeps boxes as x, y, width, height in pixels of the image, names in a
table of categories, and marks boxes around whole groups as crowds, which count neither as found
nor as missed. Categories are matched with a network's labels by name; numbers differ from file to
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.bench.frames import frames_sha256
from labkit.core.errors import UsageError, WeightsError
from labkit.core.read_json import parse_json, read_bytes, read_json
from labkit.core.types import Detections, Frame, Placement, Size
from labkit.models.weights import Weights, file_sha256
from labkit.sources.convert import fit_image, to_rgb
from labkit.sources.spec import shown_path

N_IMAGES = 200

MOST_BYTES = 2 * 2**30
"""Of a file of annotations; the largest that are published have half of it."""
LAYOUT = "a COCO folder holds annotations/instances_val2017.json and val2017/, or one .json and its images"
TABLES = {
    "images": {"id", "file_name"},
    "annotations": {"image_id", "category_id"},
    "categories": {"id", "name"},
}
"""The tables that are read, and what each of their rows holds."""


@dataclass(frozen=True)
class CocoFolder:
    """Location of a data set: the annotation file, and the folders that may hold its images."""

    annotations: Path
    folders: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Photographs:
    """Frames with their truth.

    Attributes:
        frames: of one size; the truth holds the network's own labels.
        crowds: per frame, boxes around groups, which are neither found nor missed.
        about: file and its hash, numbers of images and objects, hash of the pixels, and categories
            that the network does not know.
    """

    frames: tuple[Frame, ...]
    crowds: tuple[Detections, ...]
    about: dict[str, Any]


def find_coco(path: Path | str) -> CocoFolder:
    """Finds annotations and images in a folder, or around one annotations file.

    Raises:
        UsageError: there is no such place, or not exactly one file that could be meant.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        return CocoFolder(path, _image_folders(root))
    if not path.is_dir():
        raise UsageError(f"there is no folder {shown_path(path)}; {LAYOUT}")
    usual = path / "annotations" / "instances_val2017.json"
    files = [usual] if usual.is_file() else sorted([*path.glob("*.json"), *path.glob("annotations/*.json")])
    if not files:
        raise UsageError(f"{path} holds no annotations; {LAYOUT}")
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in files[:4])
        raise UsageError(f"{path} holds {len(files)} .json files ({names}); name the one that is meant")
    return CocoFolder(files[0], _image_folders(path))


def detector_labels(weights: Weights) -> tuple[str, ...]:
    """The names of a trained detector's labels, from its own configuration.

    Raises:
        WeightsError: the weights are random, or their configuration cannot be read.
    """
    if weights.path is None:
        raise WeightsError(
            f"accuracy on photographs needs trained weights, and those of {weights.model} are random; "
            "with an internet connection: labkit weights --fetch; without: --model-set lab"
        )
    try:
        table = read_json(weights.path / "config.json", error=WeightsError)["id2label"]
        names = {int(number): str(name) for number, name in table.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{weights.path / 'config.json'} names no labels ({error})") from error
    return tuple(names.get(i, f"id {i}") for i in range(max(names, default=-1) + 1))


def read_coco(place: CocoFolder, labels: Sequence[str], size: Size, n: int = N_IMAGES) -> Photographs:
    """Reads a fixed choice of `n` images with their boxes.

    Which images depends on their ids alone: they are sorted by the SHA-256 of their id. Each is
    resized to fit into `size` with its aspect kept, and padded around; boxes likewise.

    Args:
        place: from `find_coco`.
        labels: of the network, by number.
        size: (width, height) px of every frame.
        n: the most images to read.

    Raises:
        UsageError: the annotations cannot be read or name nothing that the network knows, an image
            is missing, or n is below 1.
    """
    if n < 1:
        raise UsageError(f"accuracy is measured on one image or more, not {n}")
    tables, left_out = _tables(place.annotations)
    label_of, unknown = _match(tables["categories"], labels, place.annotations)
    by_hash = sorted(tables["images"], key=lambda row: hashlib.sha256(str(row["id"]).encode()).digest())
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for each in tables["annotations"]:
        boxes.setdefault(each["image_id"], []).append(each)
    frames, crowds = [], []
    for index, entry in enumerate(by_hash[:n]):
        image, placed = fit_image(_image(entry, place), size, "letterbox")
        mine = [box for box in boxes.get(entry["id"], ()) if box["category_id"] in label_of]
        objects, groups = (
            _boxes(
                [box for box in mine if bool(box.get("iscrowd")) == crowd], label_of, labels, placed, place
            )
            for crowd in (False, True)
        )
        frames.append(Frame(image, index, 0.0, objects))
        crowds.append(groups)
    n_objects = sum(len(frame.truth) for frame in frames if frame.truth is not None)
    if not n_objects:
        raise UsageError(f"none of the {len(frames)} images chosen from {place.annotations} has an object")
    about = {
        "annotations": place.annotations.name,
        "annotations_sha256": file_sha256(place.annotations),
        "n_images": len(frames),
        "n_images_in_set": len(tables["images"]),
        "n_objects": n_objects,
        "sha256": frames_sha256(frames),
        "categories_unknown": unknown,
        "annotations_without_box": left_out,
    }
    return Photographs(tuple(frames), tuple(crowds), about)


def _image_folders(root: Path) -> tuple[Path, ...]:
    """The usual folder of images first."""
    inside = sorted(
        (each for each in root.iterdir() if each.is_dir()), key=lambda each: (each.name != "val2017", each)
    )
    return (*inside, root)


def _tables(path: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The tables with ids and boxes in one form, and the number of annotations without a box."""
    try:
        tables = parse_json(read_bytes(path, MOST_BYTES), dict, most_bytes=MOST_BYTES, constants=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as annotations: {error}") from error
    for name, wanted in TABLES.items():
        rows = tables.get(name)
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise UsageError(f"{path} holds no table {name!r}, so it is no COCO file of boxes; {LAYOUT}")
        for number, row in enumerate(rows):
            if not wanted <= row.keys():
                missing = " or ".join(sorted(wanted - row.keys()))
                raise UsageError(f"in {path}, row {number} of {name!r} lacks {missing}")
    images = [{**row, "id": _id(row["id"])} for row in tables["images"]]
    categories = [{**row, "id": _id(row["id"]), "name": str(row["name"])} for row in tables["categories"]]
    boxed = [
        {**row, "bbox": box, "image_id": _id(row["image_id"]), "category_id": _id(row["category_id"])}
        for row in tables["annotations"]
        if (box := _box(row))
    ]
    if not boxed:
        raise UsageError(f"in {path}, no annotation has a box (bbox) or an outline (segmentation)")
    known = {"images": images, "annotations": boxed, "categories": categories}
    return known, len(tables["annotations"]) - len(boxed)


def _id(value: Any) -> Any:
    """An id as a number where it is one, also if a tool wrote it as text or float."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else str(value)


def _box(row: Mapping[str, Any]) -> list[Any] | None:
    """x, y, width, height; around its outline where an annotation has no box; None without either."""
    box, outlines = row.get("bbox"), row.get("segmentation")
    if box or not isinstance(outlines, list):
        return box or None
    try:
        points = np.concatenate([np.reshape(np.asarray(each, np.float64), (-1, 2)) for each in outlines])
        low, high = points.min(0), points.max(0)
    except (TypeError, ValueError):
        return None
    return [*low.tolist(), *(high - low).tolist()]


def _match(
    categories: Sequence[Mapping[str, Any]], labels: Sequence[str], path: Path
) -> tuple[dict[Any, int], list[str]]:
    """Category id -> the network's label of that name, and the names that it does not have.

    Names are matched without regard to case and blanks around, unless one matches exactly.
    """
    exact = {name: number for number, name in reversed(list(enumerate(labels)))}
    loose = {_plain(name): number for number, name in reversed(list(enumerate(labels)))}
    found, unknown = {}, []
    for each in categories:
        number = exact.get(each["name"], loose.get(_plain(each["name"])))
        if number is None:
            unknown.append(each["name"])
        else:
            found[each["id"]] = number
    if not found:
        raise UsageError(
            f"the network knows none of the categories of {path} ({', '.join(sorted(unknown)[:4])}...); "
            f"it names {', '.join(labels[:4])}..."
        )
    return found, sorted(unknown)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _image(entry: Mapping[str, Any], place: CocoFolder) -> NDArray[np.uint8]:
    """(H, W, 3) RGB in the orientation that is annotated; as stored, where both have one size."""
    import cv2

    path = _image_path(str(entry["file_name"]), place)
    stated = _side(entry.get("width")), _side(entry.get("height"))
    seen = []
    for flags in (cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, cv2.IMREAD_COLOR):
        pixels = cv2.imread(str(path), flags)
        if pixels is None:
            raise UsageError(f"{path} cannot be read as an image; copy it again, or save it as JPEG or PNG")
        actual = pixels.shape[1], pixels.shape[0]
        if all(side is None or side == own for side, own in zip(stated, actual, strict=True)):
            return to_rgb(pixels)
        seen.append(f"{actual[0]}x{actual[1]}")
    turned = "" if seen[0] == seen[1] else f" ({seen[1]} when turned upright)"
    raise UsageError(
        f"{path} is {seen[0]}{turned}, not {stated[0]}x{stated[1]} as annotated in {place.annotations}"
    )


def _image_path(name: str, place: CocoFolder) -> Path:
    """An image by as much of its annotated path as exists here: tools write other machines' folders."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for first in range(len(parts)):
        for folder in place.folders:
            path = folder.joinpath(*parts[first:])
            if path.is_file():
                return path
    places = ", ".join(folder.name + "/" for folder in place.folders[:4])
    raise UsageError(f"the image {name} of {place.annotations} is not there (looked in {places})")


def _side(value: Any) -> int | None:
    """A width or height in px; None where an annotation tool knew none."""
    try:
        side = float(value)
    except (TypeError, ValueError):
        return None
    return round(side) if 0 < side < 1e9 else None


def _boxes(
    annotations: Sequence[Mapping[str, Any]],
    label_of: Mapping[Any, int],
    labels: Sequence[str],
    placed: Placement,
    place: CocoFolder,
) -> Detections:
    if not annotations:
        return Detections.empty(placed.frame)
    xywh = np.empty((len(annotations), 4), np.float64)
    for row, each in zip(xywh, annotations, strict=True):
        entry = f"the box {each['bbox']} of annotation {each.get('id', '?')} in {place.annotations}"
        try:
            row[:] = np.asarray(each["bbox"], np.float64).reshape(4)
        except (TypeError, ValueError):
            raise UsageError(f"{entry} is not x, y, width, height") from None
        if not np.isfinite(row).all():
            raise UsageError(f"{entry} holds what is no number")
        if (row[2:] < 0).any():
            raise UsageError(f"{entry} has a side below 0; a box is x, y, width, height")
    label = np.array([label_of[each["category_id"]] for each in annotations], np.int64)
    names = tuple(labels[i] for i in label)
    return Detections(placed.boxes(xywh), np.ones(len(label), np.float32), label, names, placed.frame)
