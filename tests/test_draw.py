"""Boxes and names on frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.core import annotate
from labkit.core.annotate import COLOURS, NAMES_COVER, PALETTE_SIZE, caption, draw_detections, label_colour
from labkit.core.errors import FrameError, UsageError
from labkit.core.types import Detections


def found(boxes, size, *, scores=None, labels=None, names=None, fine=None) -> Detections:
    n = len(boxes)
    detections = Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.array([0.9] * n if scores is None else scores, np.float32),
        np.array(range(n) if labels is None else labels, np.int64),
        tuple(["cat"] * n if names is None else names),
        size,
    )
    if fine is None:
        return detections
    return detections.with_fine(np.zeros(n, np.int64), np.full(n, 0.5, np.float32), tuple(fine))


def contrast(a, b) -> float:
    """WCAG 2 contrast ratio of two RGB colours."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def is_colour(image, colour) -> np.ndarray:
    return (image == np.array(colour, np.uint8)).all(axis=2)


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_box_lies_where_it_was_found(ground):
    image = np.full((240, 320, 3), ground, np.uint8)
    drawn = draw_detections(image, found([[100, 80, 200, 180]], (320, 240), labels=[1]))
    changed = (drawn != image).any(axis=2)
    inside = np.zeros_like(changed)
    inside[80:180, 100:200] = True
    plate = changed & ~inside
    assert plate[:80].any(), "the name stands above the box"
    assert not plate[180:].any()
    assert not changed[90:170, 110:190].any(), "the inside stays as it was"
    ring = is_colour(drawn, label_colour(1))
    for y, x in ((130, 101), (130, 198), (81, 150), (178, 150)):
        assert ring[y, x]
    assert not changed[130, 99]
    assert not changed[130, 200]


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), *COLOURS])
@pytest.mark.parametrize("label", range(len(COLOURS)))
def test_boxes_show_on_any_ground(ground, label):
    """Somewhere across the line there is a step that everyone can see (WCAG asks for 3 to 1)."""
    image = np.full((120, 160, 3), ground, np.uint8)
    drawn = draw_detections(image, found([[40, 50, 120, 110]], (160, 120), labels=[label]))
    across = drawn[80, 38:48].astype(int)
    assert max(contrast(a, b) for a in across for b in across) >= 3


@pytest.mark.parametrize("label", range(len(COLOURS)))
def test_names_are_readable(label):
    """The ink differs from its plate as WCAG asks for text (4.5 to 1)."""
    image = np.full((480, 640, 3), 128, np.uint8)
    drawn = draw_detections(image, found([[100, 100, 500, 400]], (640, 480), labels=[label]))
    plate = drawn[80:100, 101:160].reshape(-1, 3)
    colours, counts = np.unique(plate, axis=0, return_counts=True)
    ground = colours[counts.argmax()]
    assert tuple(ground) == label_colour(label)
    assert max(contrast(ground, ink) for ink in colours) >= 4.5


def test_colours_belong_to_labels():
    assert [label_colour(label) for label in range(len(COLOURS))] == list(COLOURS)
    assert label_colour(3) == label_colour(3 + PALETTE_SIZE)


def test_the_colours_of_any_two_classes_can_be_told_apart():
    """By scikit-image's CIEDE2000: 2.3 is just noticeable side by side."""
    color = pytest.importorskip("skimage.color")
    lab = color.rgb2lab(np.array([[label_colour(label) for label in range(PALETTE_SIZE)]], np.uint8))[0]
    apart = color.deltaE_ciede2000(lab[:, None], lab[None]) + 100 * np.eye(PALETTE_SIZE)
    assert apart.min() > 4  # all 91 of COCO, and more
    assert apart[:20, :20].min() > 11


@pytest.fixture
def plates(monkeypatch):
    """The plates of the names that are drawn, as (x_min, y_min, x_max, y_max), the last pixels included."""
    drawn = []
    draw_name = annotate._draw_name
    monkeypatch.setattr(
        annotate, "_draw_name", lambda pen, plate, *more: drawn.append(plate) or draw_name(pen, plate, *more)
    )
    return drawn


@pytest.mark.parametrize("count", [1, 4, 10, 40])
@pytest.mark.parametrize("seed", range(5))
def test_names_cover_neither_one_another_nor_a_small_picture(count, seed, plates):
    rng = np.random.default_rng(seed)
    size = np.array([320, 240])
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * size
    names = [("traffic light", "dining table", "cup")[i % 3] for i in range(count)]
    crowd = found(
        corners.reshape(count, 4), (320, 240), scores=rng.uniform(0.5, 1, count), names=names,
        labels=7 + np.arange(count), fine=["a name of ImageNet, with synonyms"] * count,
    )  # fmt: skip
    image = np.full((240, 320, 3), 128, np.uint8)
    covered = np.zeros((240, 320), int)
    draw_detections(image, crowd)
    assert min(count, 4) <= len(plates) <= count
    for x_min, y_min, x_max, y_max in plates:
        assert 0 <= x_min < x_max < 320 and 0 <= y_min < y_max < 240
        covered[y_min : y_max + 1, x_min : x_max + 1] += 1
    assert covered.max() == 1
    assert covered.mean() < NAMES_COVER + 0.03


def test_boxes_on_one_another_have_names_apart(plates):
    image = np.zeros((240, 320, 3), np.uint8)
    same = [[60, 100, 200, 180]] * 3
    draw_detections(image, found(same, (320, 240), scores=[0.9, 0.8, 0.7], names=["cup", "dog", "cat"]))
    assert len(plates) == 3 == len({plate[1] for plate in plates})
    assert plates[0][3] == 99, "the best one stands above its box"


def test_names_leave_the_corner_free_on_which_the_page_writes(plates):
    image, one = np.zeros((240, 320, 3), np.uint8), found([[200, 20, 318, 200]], (320, 240))
    draw_detections(image, one)
    draw_detections(image, one, corner=(120, 20))
    before, after = plates
    assert before[1] < 20 <= after[1]


def test_letters_grow_for_a_picture_that_is_shown_small():
    image = np.zeros((480, 640, 3), np.uint8)
    one = found([[100, 200, 500, 400]], (640, 480))

    def plate_height(**more):
        above = draw_detections(image, one, **more)[:200]
        return (above != 0).any(axis=(1, 2)).sum()

    assert plate_height(text_px=40) > 2 * plate_height()


def test_the_caption_holds_names_and_scores():
    one = found([[1, 1, 9, 9]], (10, 10), scores=[0.934])
    assert caption(one, 0) == "cat 0.93"
    assert caption(found([[1, 1, 9, 9]], (10, 10), fine=["tabby"]), 0) == "cat 0.90 · tabby 0.50"


def test_different_names_look_different():
    image = np.zeros((100, 200, 3), np.uint8)
    box = [[20, 40, 180, 90]]
    drawn = [
        draw_detections(image, found(box, (200, 100), names=[name])).tobytes()
        for name in ("cat", "dog", "größe", "кот")
    ]
    drawn.append(draw_detections(image, found(box, (200, 100), fine=["tabby"])).tobytes())
    assert len(set(drawn)) == 5


def test_the_best_lies_on_top():
    image = np.zeros((100, 100, 3), np.uint8)
    same = [[10, 40, 90, 90], [10, 40, 90, 90]]
    drawn = draw_detections(image, found(same, (100, 100), scores=[0.9, 0.2], labels=[0, 1]))
    assert is_colour(drawn, label_colour(0)).any()
    ring = drawn[60:85, 8:14]  # below the names
    assert is_colour(ring, label_colour(0)).any() and not is_colour(ring, label_colour(1)).any()


def test_nothing_found_gives_an_equal_copy():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = draw_detections(image, Detections.empty((30, 20)))
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_any_layout_is_read_and_none_is_changed():
    base = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    one = found([[10, 20, 50, 55]], (60, 60))
    locked = base.copy()
    locked.setflags(write=False)
    for image in (base, base[::-1], base[:, ::-1], base.transpose(1, 0, 2), base[:, :, ::-1], locked):
        before = image.copy()
        drawn = draw_detections(image, one)
        assert np.array_equal(image, before)
        assert np.array_equal(drawn, draw_detections(np.ascontiguousarray(image), one))
        assert drawn.flags.c_contiguous
        assert drawn.flags.writeable


@pytest.mark.parametrize(
    "box",
    [[0, 0, 40, 30], [0, 0, 0, 0], [40, 30, 40, 30], [10, 10, 10, 25], [10, 10, 12, 12], [39.6, 0, 40, 30]],
)
def test_boxes_at_the_edge_and_without_area_are_seen(box):
    image = np.full((30, 40, 3), 77, np.uint8)
    drawn = draw_detections(image, found([box], (40, 30)))
    assert drawn.shape == image.shape
    assert is_colour(drawn, label_colour(0)).any()


@st.composite
def frames_with_boxes(draw_value):
    width, height = draw_value(st.integers(1, 60)), draw_value(st.integers(1, 60))
    side = st.floats(0, 1, width=32)
    boxes = []
    for _ in range(draw_value(st.integers(0, 3))):
        x = sorted(np.float32(draw_value(side) * width) for _ in range(2))
        y = sorted(np.float32(draw_value(side) * height) for _ in range(2))
        boxes.append([x[0], y[0], x[1], y[1]])
    names = [draw_value(st.text(st.characters(), max_size=80)) for _ in boxes]
    fine = draw_value(st.none() | st.just(names[::-1]))
    return found(boxes, (width, height), names=names, fine=fine)


@settings(max_examples=150)
@given(frames_with_boxes())
def test_any_boxes_and_any_names_can_be_drawn(detections):
    width, height = detections.frame_size
    image = np.full((height, width, 3), 50, np.uint8)
    drawn = draw_detections(image, detections)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 50).all()
    assert (drawn != image).any() == bool(len(detections))


@pytest.mark.parametrize("name", ["", "a\nb\tc", "x" * 500, "ß🐈 猫", "\ud800", "e\u0301", "קט"])
def test_odd_names(name):
    image = np.zeros((48, 64, 3), np.uint8)
    drawn = draw_detections(image, found([[5, 20, 60, 45]], (64, 48), names=[name]))
    assert drawn.any()
    assert "\n" not in caption(found([[5, 20, 60, 45]], (64, 48), names=[name]), 0)


def test_long_names_end_within_the_frame():
    image = np.zeros((120, 160, 3), np.uint8)
    drawn = draw_detections(
        image, found([[100, 60, 150, 110]], (160, 120), names=["a very long name indeed " * 3])
    )
    rows = np.flatnonzero(is_colour(drawn[:60], label_colour(0)).any(axis=1))
    assert len(rows), "the name stands above the box"
    edge = drawn[rows[0] : rows[-1], -1]
    assert (edge == 0).all(), "the right rim of the plate is drawn, so the plate is not cut off"


@pytest.mark.parametrize(
    "image",
    [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3)), "image"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(FrameError, match="uint8 image"):
        draw_detections(image, Detections.empty((10, 10)))


def test_detections_of_another_frame_are_refused():
    with pytest.raises(UsageError, match="refer to a frame"):
        draw_detections(np.zeros((10, 20, 3), np.uint8), Detections.empty((10, 20)))


def test_a_name_stands_above_the_left_end_of_its_box(plates):
    ground = np.zeros((150, 200, 3), np.uint8)
    found = Detections(
        np.array([[40, 60, 120, 100]], np.float32),
        np.array([0.9], np.float32),
        np.array([1]),
        ("cat",),
        (200, 150),
    )
    draw_detections(ground, found)
    ((left, _, _, bottom),) = plates
    assert abs(left - 40) <= 4 and 0 < 60 - bottom <= 5


def test_lightness_is_that_of_cie():
    black_white = np.array([[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]])
    np.testing.assert_allclose(annotate._lab(black_white), [[0, 0, 0], [100, 0, 0]], atol=0.05)


def test_what_has_no_room_for_a_caption_gets_ever_less_of_it():
    both = found([[0, 0, 9, 9]], (20, 20), scores=[0.9], names=["cat"], fine=["tabby"])
    texts = annotate._captions(both, 0)
    assert texts[1:] == ["cat · tabby", "cat 0.90", "cat"] and texts[0] == caption(both, 0)
