"""Accuracy on photographs in COCO's format: boxes are mapped as pixels are, mistakes are one sentence."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from records_made_up import made_up_run

from labkit.bench import accuracy
from labkit.bench.agreement import Answers
from labkit.bench.coco import detector_labels, find_coco, read_coco
from labkit.bench.progress import legend
from labkit.bench.run import run_benchmark
from labkit.core.errors import UsageError, WeightsError
from labkit.core.types import Detections, Workload
from labkit.models.weights import Weights, lab_weights
from labkit.pipelines.ladder import rung
from labkit.sources.synthetic.objects import COARSE

pytestmark = pytest.mark.usefixtures("peaks_once")

pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")

SIZE = (640, 480)
NUMBERS = {name: 90 - 7 * i for i, name in enumerate(COARSE)}  # no category has its label's number


def write_coco(folder, frames, annotations="annotations/instances_val2017.json", images="val2017", more=()):
    """Frames with truth as a COCO folder; `more` are further annotations."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    rows, boxes = [], [*more]
    for frame in frames:
        name = f"{frame.index:012d}.png"
        cv2.imwrite(str(folder / images / name), frame.image[:, :, ::-1])
        rows.append({"id": frame.index, "file_name": name, "width": frame.size[0], "height": frame.size[1]})
        for box, kind in zip(frame.truth.xyxy, frame.truth.name, strict=True):
            xywh = [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            boxes.append({"image_id": frame.index, "category_id": NUMBERS[kind], "bbox": xywh, "iscrowd": 0})
    categories = [{"id": number, "name": name} for name, number in NUMBERS.items()]
    path = folder / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": categories}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"), accuracy.truth_frames(20))


@pytest.mark.extended
def test_detectors_are_examined_on_the_photographs_with_their_own_weights(folder, in_process):
    outcome = run_benchmark(
        [rung("detr_opencv_cpu"), rung("combined_cpu")],
        source="scenes",
        workload=Workload(model_set="lab", objects=3),
        rounds=None,
        plan=replace(_plan(), seconds=0.1),
        coco=folder,
        images=16,
    )
    assert not outcome.skipped
    for run in outcome.runs:
        assert run.accuracy["on"] == "photographs"
        assert run.accuracy["n_images"] == 16
        assert run.accuracy["n_images_in_set"] == 20
        assert run.accuracy["map_50"] > 0.9
        low, high = run.accuracy["map_50_interval"]
        assert low <= run.accuracy["map_50"] <= high
        assert not run.accuracy["loses"]
    assert [run.accuracy["boxes_kept"] for run in outcome.runs] == [16, 16]


def _plan():
    from labkit.bench.plan import QUICK

    return replace(QUICK, min_frames=2, warm_frames=1, warm_s=0, warm_limit_s=1)


def test_the_truth_of_a_folder_is_that_of_the_scenes(folder):
    read = read_coco(find_coco(folder), COARSE, SIZE, 20)
    known = {frame.image.tobytes(): frame.truth for frame in accuracy.truth_frames(20)}
    for frame in read.frames:
        truth = known[frame.image.tobytes()]
        np.testing.assert_allclose(frame.truth.xyxy, truth.xyxy, atol=1e-3)
        np.testing.assert_array_equal(frame.truth.label, truth.label)
        assert frame.truth.name == truth.name
    assert read.about["n_objects"] == sum(len(truth) for truth in known.values())


def test_the_choice_of_images_is_fixed_and_grows(folder):
    place = find_coco(folder)
    few, again, more = (read_coco(place, COARSE, SIZE, n) for n in (4, 4, 8))
    assert few.about == again.about
    assert [f.image.tobytes() for f in more.frames[:4]] == [f.image.tobytes() for f in few.frames]
    assert few.about["sha256"] != more.about["sha256"]


def test_crowds_count_neither_way(tmp_path):
    frames = accuracy.truth_frames(2)
    thing = frames[0].truth.name[0]  # where nothing of its kind is, a find counts neither way as it is
    crowd = {"image_id": 0, "category_id": NUMBERS[thing], "bbox": [0, 0, 640, 480], "iscrowd": 1}
    read = read_coco(find_coco(write_coco(tmp_path, frames, more=[crowd])), COARSE, SIZE)
    assert sorted(len(groups) for groups in read.crowds) == [0, 1]
    assert sum(len(f.truth) for f in read.frames) == sum(len(f.truth) for f in frames)
    extra = np.array([[5, 5, 200, 200], [300, 100, 500, 300], [100, 250, 260, 400]], np.float32)
    found = [
        _with_more(f.truth, extra, thing) if len(c) else f.truth
        for f, c in zip(read.frames, read.crowds, strict=True)
    ]
    answers = Answers("test", found, {})
    inside = accuracy.score(answers, read.frames, read.crowds)
    alone = accuracy.score(answers, read.frames)
    assert inside["map_50"] == 1
    assert alone["map_50"] < 0.99


def _with_more(truth, boxes, thing):
    n = len(boxes)
    return Detections(
        np.concatenate([boxes, truth.xyxy]),
        np.concatenate([np.ones(n, np.float32), truth.score * np.float32(0.9)]),
        np.concatenate([np.full(n, COARSE.index(thing), np.int64), truth.label]),
        (thing,) * n + truth.name,
        truth.frame_size,
    )


def test_one_json_and_its_images_will_do(tmp_path):
    frames = accuracy.truth_frames(2)
    place = find_coco(write_coco(tmp_path, frames, annotations="boxes.json", images="pictures"))
    assert len(read_coco(place, COARSE, SIZE).frames) == 2
    named = find_coco(tmp_path / "boxes.json")
    assert len(read_coco(named, COARSE, SIZE).frames) == 2
    (tmp_path / "more.json").write_text("{}")
    with pytest.raises(UsageError, match=r"2 \.json files"):
        find_coco(tmp_path)


def edited(folder, change):
    path = folder / "annotations" / "instances_val2017.json"
    tables = json.loads(path.read_text())
    change(tables)
    path.write_text(json.dumps(tables))


WRONG = {
    "is not there": lambda f: next(f.glob("val2017/*.png")).unlink(),
    "cannot be read as an image": lambda f: next(f.glob("val2017/*.png")).write_text("text"),
    "knows none of the categories": lambda f: edited(
        f, lambda t: t.update(categories=[{"id": 1, "name": "zebra"}])
    ),
    "no table 'categories'": lambda f: edited(f, lambda t: t.pop("categories")),
    "not 7x480 as annotated": lambda f: edited(f, lambda t: [i.update(width=7) for i in t["images"]]),
    "lacks": lambda f: edited(f, lambda t: t["images"][0].pop("file_name")),
    "is not x, y, width, height": lambda f: edited(
        f, lambda t: [a.update(bbox=[1, 2]) for a in t["annotations"]]
    ),
    "below 0": lambda f: edited(f, lambda t: [a.update(bbox=[9, 9, -3, 2]) for a in t["annotations"]]),
    "has an object": lambda f: edited(f, lambda t: [a.update(iscrowd=1) for a in t["annotations"]]),
    "cannot be read as annotations": lambda f: (f / "annotations" / "instances_val2017.json").write_text("{"),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_damaged_folder_is_one_sentence(words, tmp_path):
    write_coco(tmp_path, accuracy.truth_frames(2))
    WRONG[words](tmp_path)
    with pytest.raises(UsageError, match=words):
        read_coco(find_coco(tmp_path), COARSE, SIZE)


def test_a_folder_that_is_none_is_said_before_anything_is_measured(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        run_benchmark([rung("detr_opencv_cpu")], coco=tmp_path / "nowhere")
    for address in ("joe;s3cret@camera", "HTTP//joe:s3cret@camera", "host.local/live/s3cret"):
        with pytest.raises(UsageError, match="there is no folder") as caught:
            find_coco(address)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(UsageError, match="holds no annotations"):
        run_benchmark([rung("detr_opencv_cpu")], coco=tmp_path)


def test_a_classifier_has_no_use_for_boxes(folder):
    with pytest.raises(UsageError, match="none of resnet_pil_cpu"):
        run_benchmark([rung("resnet_pil_cpu")], coco=folder)


def test_the_legend_tells_where_the_figures_come_from():
    about = {"on": "photographs", "n_images": 200, "annotations": "x" * 90 + ".json", "map_50": 0.5}
    lines = legend([made_up_run("detr", accuracy=about)])
    assert any("200 photographs" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert not any("photographs" in line for line in legend([made_up_run("detr")]))


def test_random_weights_are_not_examined(folder):
    with pytest.raises(WeightsError, match="random"):
        run_benchmark(
            [rung("detr_opencv_cpu")],
            workload=Workload(weights="random"),
            plan=None,
            coco=folder,
            source="scenes",
        )
    with pytest.raises(WeightsError):
        detector_labels(Weights("detr_r50", "random", None, "seed 0", ""))
    assert detector_labels(lab_weights("lab_detr")) == COARSE


def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    from test_cli import exit_code

    for arguments, words in (
        (["--coco", str(tmp_path / "no")], "there is no folder"),
        (["--coco", str(tmp_path), "--no-accuracy"], "--no-accuracy"),
    ):
        monkeypatch.setattr("sys.argv", ["labkit", "bench", "detr_opencv_cpu", *arguments])
        assert exit_code() == 2
        assert words in capsys.readouterr().err


# As annotation tools write them

BALL = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [40, 60, 60, 60], "iscrowd": 0}
VARIANTS = {
    "plain": ({}, {}, "ball"),
    "another machine's folder": ({"file_name": "/home/annotator/data/a.jpg"}, {}, "ball"),
    "backslash": ({"file_name": "val2017\\a.jpg"}, {}, "ball"),
    "with folder": ({"file_name": "val2017/a.jpg"}, {}, "ball"),
    "dot folder": ({"file_name": "./a.jpg"}, {}, "ball"),
    "sizes as text": ({"width": "320", "height": "240"}, {}, "ball"),
    "sizes as float": ({"width": 320.0, "height": 240.0}, {}, "ball"),
    "sizes zero": ({"width": 0, "height": None}, {}, "ball"),
    "no number": ({"width": float("nan")}, {}, "ball"),
    "ids as text": ({"id": "1"}, {}, "ball"),
    "ids as float": ({}, {"image_id": 1.0, "category_id": "7"}, "ball"),
    "outline only": ({}, {"bbox": None, "segmentation": [[40, 60, 100, 60, 100, 120]]}, "ball"),
    "capital": ({}, {}, "Ball"),
    "blanks": ({}, {}, "ball "),
}


def one_ball(folder, image=None, box=None, name="ball", encoding="utf-8", boxes=(), turned=False):
    """A COCO folder of one gray photograph of 320x240 with one annotation."""
    from PIL import Image

    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    picture = Image.new("RGB", (320, 240), (90, 90, 90))
    exif = picture.getexif()
    if turned:
        exif[0x0112] = 6
    picture.save(folder / "val2017" / "a.jpg", exif=exif)
    tables = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 320, "height": 240, **(image or {})}],
        "annotations": [{**BALL, **(box or {})}, *boxes],
        "categories": [{"id": 0, "name": "Häuschen"}, {"id": 7, "name": name}],
    }
    text = json.dumps(tables, ensure_ascii=False)
    (folder / "annotations" / "instances_val2017.json").write_bytes(text.encode(encoding))
    return find_coco(folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_tools_mean_is_read(tmp_path, variant):
    image, box, name = VARIANTS[variant]
    read = read_coco(one_ball(tmp_path, image, box, name), ("cube", "ball"), (320, 240))
    (frame,) = read.frames
    assert frame.truth.xyxy.tolist() == [[40, 60, 100, 120]]
    assert frame.truth.name == ("ball",)
    assert read.about["categories_unknown"] == ["Häuschen"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_annotations(tmp_path, encoding):
    read = read_coco(one_ball(tmp_path, encoding=encoding), ("ball",), (320, 240))
    assert read.about["categories_unknown"] == ["Häuschen"]


def test_an_annotation_without_a_box_is_counted_and_one_outside_is_cut(tmp_path):
    more = [{**BALL, "id": 2, "bbox": []}, {**BALL, "id": 3, "bbox": [-5, -5, 400, 400]}]
    read = read_coco(one_ball(tmp_path, boxes=more), ("ball",), (320, 240))
    assert read.frames[0].truth.xyxy.tolist() == [[40, 60, 100, 120], [0, 0, 320, 240]]
    assert read.about["annotations_without_box"] == 1


def test_boxes_of_a_turned_photograph_are_in_the_orientation_that_is_annotated(tmp_path):
    upright = one_ball(tmp_path / "a", {"width": 240, "height": 320}, turned=True)
    assert read_coco(upright, ("ball",), (240, 320)).frames[0].truth.xyxy.tolist() == [[40, 60, 100, 120]]
    stored = one_ball(tmp_path / "b", turned=True)
    assert read_coco(stored, ("ball",), (320, 240)).frames[0].truth.xyxy.tolist() == [[40, 60, 100, 120]]
    other = one_ball(tmp_path / "c", {"width": 99, "height": 98}, turned=True)
    with pytest.raises(UsageError, match=r"320x240 \(240x320 when turned upright\), not 99x98 as annotated"):
        read_coco(other, ("ball",), (320, 240))


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ([1, 2], "is not x, y, width, height"),
        ([9, 9, -3, 2], "side below 0"),
        ([0, 0, float("nan"), 1], "no number"),
    ],
)
def test_a_wrong_box_is_named_with_its_file_and_entry(tmp_path, bbox, words):
    with pytest.raises(UsageError, match=rf"the box .* of annotation 1 in .*val2017\.json .*{words}"):
        read_coco(one_ball(tmp_path, box={"bbox": bbox}), ("ball",), (320, 240))
