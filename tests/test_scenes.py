"""The synthetic world: the same bytes everywhere, and a truth that is true."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from labkit.core.errors import UsageError
from labkit.sources.synthetic.background import render_background
from labkit.sources.synthetic.objects import COARSE, COLOURS, FINE, shot_objects
from labkit.sources.synthetic.rng import IntegerRng
from labkit.sources.synthetic.scene import SHOT_FRAMES, RenderedScene, render_scene, scene_frame
from labkit.sources.synthetic.shapes import FULL, SHAPES, SUB, box_blur, coverage, place


def digest(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


class TestSameEverywhere:
    def test_the_bytes_are_those_of_every_other_machine(self):
        frames = [scene_frame(i) for i in (0, 77, 149, 150, 4321)]
        assert digest(*(f.image for f in frames)) == "40893b26df79103c"
        assert digest(*(f.truth.xyxy for f in frames)) == "1799a05736b3c900"

    def test_so_are_other_sizes_seeds_and_noise(self):
        frames = [
            scene_frame(3, size=(320, 240), seed=7),
            scene_frame(3, size=(333, 217), seed=2**40),
            scene_frame(200, size=(160, 120), seed=1, noise=9.5),
        ]
        assert digest(*(f.image for f in frames)) == "b17ba92d1a37ed6c"

    def test_so_are_close_ups(self):
        frames = [
            scene_frame(3, closeup=True),
            scene_frame(460, size=(320, 240), seed=7, noise=4, closeup=True),
        ]
        assert digest(*(f.image for f in frames)) == "a4928d5d198cff31"

    def test_any_frame_can_be_drawn_on_its_own(self):
        forth = [scene_frame(i, size=(160, 120)).image for i in range(148, 153)]
        back = [scene_frame(i, size=(160, 120)).image for i in reversed(range(148, 153))]
        assert all((a == b).all() for a, b in zip(forth, reversed(back), strict=True))

    def test_drawing_leaves_the_shared_backdrop_alone(self):
        before = render_background(0, 0, (160, 120))[0].copy()
        scene_frame(5, size=(160, 120)).image[...] = 0
        assert (render_background(0, 0, (160, 120))[0] == before).all()

    def test_dice_are_the_raw_stream_of_pcg64(self):
        raw = np.random.PCG64(np.random.SeedSequence([3, 4])).random_raw(2)
        rng = IntegerRng(3, 4)
        assert [rng.between(10, 19) for _ in range(2)] == [10 + int(r >> 11) % 10 for r in raw]


class TestTruth:
    @pytest.mark.parametrize("size", [(640, 480), (64, 48), (333, 217), (480, 640)])
    def test_a_close_up_is_one_object_of_its_scene_that_fills_the_frame(self, size):
        for shot in range(8):
            truth = scene_frame(150 * shot + 61, size=size, closeup=True).truth
            (left, top, right, bottom), middle = truth.xyxy[0], np.array(size) / 2
            assert len(truth) == 1 and (right - left) * (bottom - top) > 0.4 * min(size) ** 2
            assert left < middle[0] < right and top < middle[1] < bottom
            assert truth.fine_name[0] == FINE[shot_objects(0, shot, size)[0].fine]

    @pytest.mark.parametrize("index", [0, 40, 151, 310, 460, 777])
    def test_boxes_are_those_of_the_drawn_outlines(self, index):
        rendered = render_scene(index)
        truth = scene_frame(index).truth
        shown = [i for i, (seen, whole) in enumerate(rendered.visible) if 4 * seen >= whole]
        assert len(truth) == len(shown)
        for box, i in zip(truth.xyxy, shown, strict=True):
            reference = outline(rendered, i, index)
            y, x = np.nonzero(reference)
            expected = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            # A pixel half covered may fall to either side of a point-in-polygon test.
            assert np.abs(box - expected).max() <= 1, (box, expected)
            assert (rendered.masks[i] != reference).mean() < 0.002

    @pytest.mark.parametrize("index", [40, 151, 310])
    def test_objects_are_where_the_picture_differs_from_its_ground(self, index):
        rendered = render_scene(index)
        ground, _ = render_background(0, index // SHOT_FRAMES, (640, 480))
        changed = (rendered.image != ground).any(axis=2)
        anything = np.logical_or.reduce(rendered.masks)
        assert changed[anything].mean() > 0.99
        # Shadows reach a little further, but most of the picture is left as it was.
        assert changed[~anything].mean() < 0.25

    def test_what_is_mostly_hidden_is_not_in_the_truth(self):
        dropped = 0
        for index in (40, 310, 460, 3525, 3530, 27000, 27010):
            rendered = render_scene(index, size=(160, 120))
            seen = painted_last(rendered)
            kept = [
                t
                for t, s, (_, whole) in zip(rendered.objects, seen, rendered.visible, strict=True)
                if s * 4 >= whole
            ]
            truth = scene_frame(index, size=(160, 120)).truth
            assert truth.fine_name == tuple(FINE[t.fine] for t in kept)
            dropped += len(rendered.objects) - len(kept)
        assert dropped > 0, "the sample shows no hidden object, so it tests nothing"

    def test_names_and_labels_go_together(self):
        truth = scene_frame(460).truth
        assert len(truth)
        for k in range(len(truth)):
            assert truth.name[k] == COARSE[truth.label[k]]
            assert truth.fine_name[k] == FINE[truth.fine_label[k]]
            colour, kind = truth.fine_name[k].split()
            assert (kind, colour) == (truth.name[k], tuple(COLOURS)[truth.fine_label[k] % len(COLOURS)])
        assert (truth.score == 1).all()
        assert (truth.fine_score == 1).all()

    def test_an_objects_colour_is_what_its_name_says(self):
        """The middle of each unhidden object is nearer to the named colour than to any other."""
        right = total = 0
        palette = np.array(list(COLOURS.values()), float)
        palette /= np.linalg.norm(palette, axis=1, keepdims=True)
        for index in range(20, 80 * SHOT_FRAMES, SHOT_FRAMES):
            rendered = render_scene(index)
            for item, mask, (seen, whole) in zip(
                rendered.objects, rendered.masks, rendered.visible, strict=True
            ):
                if seen < whole:
                    continue
                pixels = rendered.image[mask].astype(float)
                vivid = pixels[np.ptp(pixels, axis=1) > 70]
                if len(vivid) < 20:
                    continue
                mean = vivid.mean(axis=0)
                right += FINE[item.fine].startswith(tuple(COLOURS)[int((palette @ mean).argmax())])
                total += 1
        assert total > 150
        assert right / total > 0.9


class TestWorld:
    def test_the_tables_are_as_promised(self):
        assert len(COARSE) >= 8
        assert len(FINE) == len(COARSE) * len(COLOURS) >= 40
        assert len(set(FINE)) == len(FINE)

    def test_every_kind_comes_up_and_one_to_eight_at_a_time(self):
        casts = [shot_objects(0, shot, (640, 480)) for shot in range(400)]
        assert {len(objects) for objects in casts} == set(range(1, 9))
        assert {item.fine for objects in casts for item in objects} == set(range(len(FINE)))

    def test_motion_is_smooth_within_a_shot_and_new_after_it(self):
        for shot in range(5):
            for item in shot_objects(0, shot, (640, 480)):
                centres = np.array([item.pose(step)[0] for step in range(SHOT_FRAMES)]) / SUB
                moves = np.abs(np.diff(centres, axis=0))
                assert moves.max() < 4
                assert moves.sum() > 20, "it moves at all"
                assert np.abs(np.diff(moves, axis=0)).max() < 1
        last, first = scene_frame(SHOT_FRAMES - 1).image, scene_frame(SHOT_FRAMES).image
        neighbour = scene_frame(SHOT_FRAMES - 2).image
        assert difference(last, first) > 10 * difference(last, neighbour)

    @pytest.mark.parametrize("size", [(64, 48), (97, 301), (320, 240), (1280, 720)])
    def test_frames_have_the_size_asked_for(self, size):
        frame = scene_frame(310, size=size)
        assert frame.size == frame.truth.frame_size == size

    def test_noise_has_the_strength_asked_for_and_is_new_in_each_frame(self):
        clean = scene_frame(310).image.astype(int)
        noisy = scene_frame(310, noise=10).image.astype(int)
        middle = (clean > 60) & (clean < 190)
        grain = (noisy - clean)[middle]
        assert abs(grain.mean()) < 0.1
        assert grain.std() == pytest.approx(10, abs=0.2)
        assert np.mean(np.abs(grain) < 10) == pytest.approx(0.66, abs=0.03)  # as of a bell curve
        other = (scene_frame(311, noise=10).image.astype(int) - scene_frame(311).image)[middle]
        assert abs(np.corrcoef(grain, other)[0, 1]) < 0.01

    @pytest.mark.parametrize(
        ("kwargs", "value"),
        [({"index": -1}, "-1"), ({"index": 0, "size": (10, 10)}, "10x10"), ({"index": 0, "noise": -2}, "-2")],
    )
    def test_bad_arguments_are_named(self, kwargs, value):
        with pytest.raises(UsageError, match=value):
            scene_frame(**kwargs)


class TestRasteriser:
    @given(st.lists(st.tuples(st.integers(-200, 900), st.integers(-200, 700)), min_size=3, max_size=3))
    @settings(max_examples=60)
    def test_coverage_of_triangles_is_their_area(self, corners):
        polygon = np.array(corners, dtype=np.int64)
        cover = on_canvas(polygon, 40, 30)
        assert cover.min() >= 0
        assert cover.max() <= FULL
        # 4 x 16 sample points per pixel, tested one by one in exact integers, a hair below the
        # sample row, since an edge counts from its upper end on.
        y, x = np.mgrid[0 : 30 * 4, 0 : 40 * 16]
        inside = in_triangle(100 * polygon, 100 * x + 50, 100 * (4 * y + 2) + 1)
        reference = inside.reshape(30, 4, 40, 16).sum(axis=(1, 3))
        assert np.abs(cover - reference).max() <= 4 * 2  # a sample per edge and sample row

    def test_a_rectangle_on_the_grid_is_covered_exactly(self):
        cover = on_canvas(np.array([(32, 16), (96, 16), (96, 48), (32, 48)]), 10, 5)
        expected = np.zeros((5, 10), int)
        expected[1:3, 2:6] = FULL
        assert (cover == expected).all()

    def test_direction_and_starting_corner_do_not_matter(self):
        polygon = np.array([(33, 17), (140, 40), (90, 130), (20, 99)])
        cover = on_canvas(polygon, 12, 12)
        assert (on_canvas(polygon[::-1], 12, 12) == cover).mean() > 0.9
        assert np.abs(on_canvas(polygon[::-1], 12, 12) - cover).max() <= 4
        assert (on_canvas(np.roll(polygon, 2, axis=0), 12, 12) == cover).all()

    @pytest.mark.parametrize("away", [(-5000, 0), (5000, 0), (0, -5000), (0, 5000)])
    def test_a_polygon_off_the_canvas_leaves_no_trace(self, away):
        polygon = np.array([(33, 17), (140, 40), (90, 130)]) + np.array(away)
        assert on_canvas(polygon, 12, 12).sum() == 0

    def test_box_blur_is_the_mean_of_the_square(self):
        values = np.random.default_rng(0).integers(0, FULL + 1, (13, 9)).astype(np.int32)
        blurred = box_blur(values, 2)
        padded = np.pad(values, 2)
        for y, x in [(0, 0), (6, 4), (12, 8), (3, 7)]:
            assert blurred[y, x] == padded[y : y + 5, x : x + 5].sum() // 25


def outline(rendered: RenderedScene, i: int, index: int) -> np.ndarray:
    """(480, 640) bool: the object drawn by another library, from its polygons."""
    item = rendered.objects[i]
    centre, radius, angle = item.pose(index % SHOT_FRAMES)
    mask = np.zeros((480, 640), bool)
    for _, points in SHAPES[COARSE[item.coarse]]:
        polygon = place(points, centre, radius, angle, item.mirrored)
        mask |= polygon2mask((480, 640), polygon[:, ::-1] / SUB - 0.5)
    return mask


def painted_last(rendered: RenderedScene) -> list[int]:
    """How many pixels of each object are left when all have been painted, back to front."""
    canvas = np.full(rendered.image.shape[:2], -1)
    for i, mask in enumerate(rendered.masks):
        canvas[mask] = i
    return [int((canvas == i).sum()) for i in range(len(rendered.masks))]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def on_canvas(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
    canvas = np.zeros((height, width), np.int32)
    cover, window = coverage(polygon.astype(np.int64), width, height)
    canvas[window] += cover
    return canvas


def in_triangle(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sides = []
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        sides.append((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0))
    return np.logical_and.reduce([s > 0 for s in sides]) | np.logical_and.reduce([s < 0 for s in sides])
