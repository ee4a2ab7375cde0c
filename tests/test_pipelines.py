"""The ladder as data, and schedules: whatever the order of work, the answers are the same."""

import dataclasses
import inspect
import sys
import threading
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import labkit
from labkit.bench.agreement import Answers, measure_agreement
from labkit.bench.plan import Plan
from labkit.bench.run import _limit
from labkit.bench.session import Session
from labkit.bench.timing import Clock, measure
from labkit.core import requirements
from labkit.core.boxes import box_iou
from labkit.core.errors import UsageError
from labkit.core.requirements import precision_here, unmet_requirement
from labkit.core.types import Detections, Frame, Workload
from labkit.models.callables import Combined
from labkit.models.engines.build import ENGINES, Request, build_engine
from labkit.models.prepare import prepare
from labkit.models.preprocess import IMPLEMENTATIONS
from labkit.pipelines import tracked as tracked_module
from labkit.pipelines.combined import kept_awake
from labkit.pipelines.former_names import FORMER_NAMES
from labkit.pipelines.ladder import LADDER, about_here, ladder, rung
from labkit.pipelines.tracked import flow_boxes, tracked
from labkit.sources.synthetic.scene import scene_frame

from conftest import TINY, further, make_frame  # isort: skip

pytestmark = pytest.mark.usefixtures("networks_once")

NAMES = [r.name for r in LADDER]


def test_names_are_unique_and_ancestors_come_first():
    assert len(set(NAMES)) == len(NAMES)
    for position, row in enumerate(LADDER):
        assert row.reference in NAMES
        assert row.changes is None or row.changes in NAMES[:position]


@pytest.mark.parametrize("row", LADDER, ids=NAMES)
def test_a_rung_is_data_that_can_be_prepared(row):
    assert inspect.isgeneratorfunction(row.run)
    assert row.prepare.engine in ENGINES
    assert row.prepare.preprocess in (*IMPLEMENTATIONS, "bytes", "pinned")
    assert ("cuda" in row.needs) == (row.prepare.device == "cuda")
    assert row.about


def changed_by(row):
    """Names of what differs in preparation and schedule between a rung and the one it changes."""
    before = rung(row.changes)
    first, second = before.prepare.describe(), row.prepare.describe()
    changed = {key for key in {*first, *second} if first.get(key) != second.get(key)}
    return changed | ({"schedule"} if before.run is not row.run else set())


# changes that are one idea although they touch several fields of the data
ONE_IDEA = [
    {"fold_batch_norm", "channels_last"},  # layout of the same arithmetic
    {"engine", "preprocess", "fold_batch_norm", "channels_last"},  # an engine brings its own
    {"precision", "rest_precision"},
    {"schedule", "form", "preprocess"},  # nothing comes back in between
    {"precision", "fold_batch_norm", "channels_last"},
    {"engine", "compile"},
    {"engine", "fold_batch_norm", "channels_last"},  # TensorRT lays out and folds by itself
    {"engine", "lean"},  # a graph cannot hold the waits that are hidden in the library's pass
    {"engine", "preprocess", "precision"},
    {"engine", "precision", "fold_batch_norm", "channels_last", "lean", "mode"},  # a peer at its best
    {"schedule", "filter", "filter_radius", "filter_eps", "filter_where"},  # a filter where there was none
    {"filter", "filter_radius", "filter_eps", "filter_where"},  # a filter inside the graph
    {"filter", "filter_where"},  # a version that ends elsewhere
    {"schedule", "preprocess"},  # a second stream needs work to put on it
    {"schedule", "form", "depth"},  # as many frames under way as there are buffers
    {"schedule", "frames"},  # a schedule for groups, and how large they are
    {"schedule", "every"},  # a schedule that follows boxes, and how long
]


@pytest.mark.parametrize("row", [r for r in LADDER if r.changes], ids=lambda r: r.name)
def test_a_rung_changes_one_thing(row):
    changed = changed_by(row)
    assert changed
    assert len(changed) == 1 or any(changed <= idea for idea in ONE_IDEA), changed


def test_unknown_names_get_a_hint():
    with pytest.raises(UsageError, match="did you mean detr_pil_cpu"):
        rung("detr_pil_cp")
    assert ladder(stage=77) == ()
    assert set(FORMER_NAMES.values()) <= set(NAMES)
    with pytest.raises(UsageError, match="origin_combined_cpu is called baseline_combined_cpu now"):
        rung("origin_combined_cpu")


@pytest.mark.skipif(unmet_requirement(["openvino"]) is not None, reason="needs OpenVINO")
@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_cpu_without_bfloat16_is_told(has_bf16, monkeypatch):
    monkeypatch.setattr(requirements, "_openvino_has_bf16", lambda: has_bf16)
    words = {
        name: about_here(rung(name)) for name in ("cpu_engine_fp32", "cpu_engine_bf16", "cpu_engine_int8")
    }
    assert "(here" not in words["cpu_engine_fp32"]
    assert ("(here float32: " in words["cpu_engine_bf16"]) is not has_bf16
    assert ("(here what is not int8 is float32: " in words["cpu_engine_int8"]) is not has_bf16
    prepared = prepare(rung("resnet_opencv_cpu").prepare, Workload("lab"))
    assert prepared.settings["fallback"] is None
    context = types.SimpleNamespace(
        peaks={"cpu": {"fp32": 2.0, "bf16": 1.0}}, workload=Workload("lab"), counted={}
    )
    limit = _limit(rung("cpu_engine_bf16"), context)
    assert (limit["precision"], limit["peak_gflops"]) == (("bf16", 1.0) if has_bf16 else ("fp32", 2.0))


@pytest.mark.skipif(unmet_requirement(["openvino"]) is not None, reason="needs OpenVINO")
def test_the_precision_that_is_told_is_the_one_that_openvino_took(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = torch.nn.Linear(8, 8).eval()
    engine = build_engine("openvino", Request(net, torch.zeros(1, 8), "tiny", precision="bf16"))
    taken = engine.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert taken == {"fp32": "f32", "bf16": "bf16"}[precision_here(rung("cpu_engine_bf16").prepare)]


def able(row):
    reason = unmet_requirement(row.needs)
    return pytest.param(row, id=row.name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Answers of any rung on the same frames, each rung prepared once."""
    known: dict[str, Answers] = {}
    frames = [make_frame(i) for i in range(3)]
    workload = Workload(weights="random", size=TINY, objects=3)

    def of(name):
        if name not in known:
            known[name] = Session(rung(name), workload, frames).answers(frames)
        return known[name]

    return of


RACES = "baseline_streams_cuda"  # on purpose: what it answers is luck
FP32 = [r for r in LADDER if r.prepare.precision == "fp32" and r.prepare.form == "parts" and r.name != RACES]
LOWER = [r for r in LADDER if r.prepare.precision in ("bf16", "fp16") and r.run is not tracked]


@pytest.mark.parametrize("row", [able(r) for r in FP32 if r.prepare.task != "classify"])
def test_fp32_rungs_agree_with_their_reference_to_a_thousandth(row, answers):
    result = measure_agreement(answers(row.reference), answers(row.name))
    assert result.nan_count == 0
    assert result.share == 1
    if row.prepare.preprocess in ("torch", "pinned"):  # torch shrinks crops in another way than OpenCV
        assert result.relative_error < 0.05
    else:  # a GPU adds up in another order
        assert result.relative_error < (1e-3 if row.prepare.device == "cpu" else 2e-2)
    if row.prepare.task == "combined":
        assert result.same_name == 1


@pytest.fixture(scope="module")
def on_cpu():
    """A GPU rung's preparation with nothing but the device and engine taken from it."""

    def of(name):
        row = rung(name)
        prepare_cpu = dataclasses.replace(row.prepare, device="cpu", engine="eager", precision="fp32")
        return dataclasses.replace(row, prepare=prepare_cpu, needs=())

    return of


SAME_ON_A_CPU = ("tensorrt_cuda", "graph_cuda")  # as on_device_cuda and autotuned_cuda, but for the engine
TWINS = ("grouped_graph_8_cuda", "filter_graph_cuda")
"""Rungs whose code others of them run, too."""
ON_CPU = [r for r in LADDER if "cuda" in r.needs and r.name not in SAME_ON_A_CPU]


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=r.name, marks=pytest.mark.extended if r.name in TWINS else ()) for r in ON_CPU],
)
def test_gpu_rungs_give_their_references_answers_on_the_cpu(row, on_cpu, answers):
    """Shapes, schedule and decoding do not depend on the device, so they can be tested here."""
    frames = [make_frame(i) for i in range(3)]
    workload = Workload(weights="random", size=TINY, objects=3)
    got = Session(on_cpu(row.name), workload, frames).answers(frames)
    reference = "resnet_opencv_cpu" if row.prepare.task == "classify" else row.reference
    result = measure_agreement(answers(reference), got)
    assert result.share == 1
    assert result.nan_count == 0
    assert result.same_name in (None, 1.0)
    if row.prepare.form == "parts":
        assert result.relative_error < (0.05 if row.prepare.preprocess == "torch" else 1e-3)


@pytest.mark.parametrize(
    ("size", "objects"), [((33, 47), 8), ((320, 96), 1), *further(((33, 47), 1), ((320, 96), 8))]
)
def test_the_whole_frame_module_is_the_parts_in_one(size, objects, on_cpu):
    frames = [make_frame(i, size) for i in range(2)]
    workload = Workload(weights="random", size=size, objects=objects)
    whole = Session(on_cpu("on_device_cuda"), workload, frames).answers(frames)
    parts = Session(rung("batched_cpu"), workload, frames).answers(frames)
    for a, b in zip(parts.found, whole.found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=0.01)
        np.testing.assert_allclose(a.score, b.score, rtol=1e-3)
        assert a.name == b.name
        assert len(b.fine_name) == objects


@pytest.mark.parametrize("row", [able(r) for r in LOWER])
@pytest.mark.extended
def test_half_precision_rungs_stay_near_their_reference(row, answers):
    result = measure_agreement(answers(row.reference), answers(row.name))
    assert result.nan_count == 0
    if (
        row.prepare.form == "parts"
    ):  # the others show their best boxes only, beside all queries of the reference
        assert result.relative_error < 0.2


@pytest.mark.parametrize("name", ["resnet_opencv_cpu", "resnet_linear_cpu"])
def test_other_resizing_is_measured_and_not_nothing(name, answers):
    result = measure_agreement(answers("resnet_pil_cpu"), answers(name))
    assert 0 < result.relative_error < 0.5


@pytest.mark.parametrize("objects", [0, 1, 100])
@pytest.mark.extended
def test_any_number_of_boxes(objects):
    frames = [make_frame(0)]
    workload = Workload(weights="random", size=TINY, objects=objects)
    found = {
        name: Session(rung(name), workload, frames).answers(frames).found[0]
        for name in ("baseline_combined_cpu", "batched_cpu")
    }
    for name, each in found.items():
        assert len(each) == len(each.fine_name) == objects, name
        np.testing.assert_allclose(each.xyxy, found["baseline_combined_cpu"].xyxy, atol=1e-3)
        assert each.fine_name == found["baseline_combined_cpu"].fine_name


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (3840, 2160)])
@pytest.mark.parametrize("name", ["resnet_pil_cpu", "resnet_opencv_cpu"])
def test_frames_of_any_size(name, size):
    frame = make_frame(0, size)
    workload = Workload(weights="random", size=size)
    found = Session(rung(name), workload, [frame]).answers([frame]).found[0]
    assert found.frame_size == size


@pytest.mark.parametrize("size", [(1, 1), (3840, 2160), pytest.param((33, 17), marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    "name", ["baseline_combined_cpu", "batched_cpu", "cpu_engine_fp32", "on_device_cuda"]
)
def test_objects_are_named_in_frames_of_any_size(name, size, on_cpu):
    row = on_cpu(name) if "cuda" in rung(name).needs else rung(name)
    if unmet_requirement(row.needs):
        pytest.skip(unmet_requirement(row.needs))
    frame = make_frame(0, size)
    found = Session(row, Workload(model_set="lab", size=size, objects=3), [frame]).answers([frame]).found[0]
    assert found.frame_size == size
    assert len(found) == len(found.fine_name) == 3
    assert np.isfinite(found.score).all() and (found.xyxy >= 0).all() and (found.xyxy <= [*size, *size]).all()


@pytest.mark.parametrize(
    "row",
    [
        *(able(r) for r in LADDER if r.prepare.engine == "eager" and r.name != "peer_shipped_cpu"),
        *further(rung("peer_shipped_cpu")),
    ],
)
def test_schedules_keep_order_and_end_with_their_frames(row, workload, frames):
    net = prepare(row.prepare, workload).net
    assert [frame.index for frame, _ in row.run(frames, net)] == [f.index for f in frames]
    assert list(row.run([], net)) == []


def test_boxes_without_area_can_be_named(workload):
    net = prepare(rung("batched_cpu").prepare, workload).net
    assert isinstance(net, Combined)
    image = make_frame(0).image
    width, height = TINY
    xyxy = np.array([[0, 0, 0, 0], [width, height, width, height], [5, 5, 5, 90]], np.float32)
    logits = net.classifier.infer(net.classifier.crops(image, xyxy))
    assert logits.shape[0] == 3
    assert torch.isfinite(logits).all()


def test_a_core_is_kept_at_work_only_while_a_frame_is_waited_for(frames):
    def fed():
        for frame in frames[:3]:
            at_work.append(any(each.name == "labkit awake" for each in threading.enumerate()))
            yield frame

    at_work = []
    results = kept_awake(fed())
    assert [frame.index for frame in results] == [frame.index for frame in frames[:3]]
    assert at_work == [True] * 3
    stopped = kept_awake(iter(frames))
    next(stopped)
    stopped.close()
    assert not any(each.name == "labkit awake" for each in threading.enumerate())


def test_stopping_early_is_harmless(workload, frames):
    row = rung("detr_opencv_cpu")
    results = row.run(iter(frames), prepare(row.prepare, workload).net)
    assert isinstance(next(results)[0], Frame)
    results.close()


def in_groups(name, frames):
    row = rung(name)
    return dataclasses.replace(row, prepare=dataclasses.replace(row.prepare, options={"frames": frames}))


def assert_same_answers(got, wanted, box_px, share):
    assert [frame.index for frame, _ in got] == [frame.index for frame, _ in wanted]
    for (_, a), (_, b) in zip(got, wanted, strict=True):
        assert len(a) == len(b) == len(a.fine_name)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=box_px)
        np.testing.assert_allclose(a.score, b.score, rtol=share)
        np.testing.assert_allclose(a.fine_score, b.fine_score, rtol=share)
        assert (a.name, a.fine_name) == (b.name, b.fine_name)


@pytest.mark.parametrize("together", [4, *further(1, 2, 3)])
@pytest.mark.parametrize("objects", [0, 3])
def test_groups_of_frames_get_the_answers_of_single_frames(together, objects, workload):
    frames = [make_frame(i) for i in range(6)]  # 6 is no multiple of 4: the last group is not full
    workload = dataclasses.replace(workload, objects=objects)
    single = list(rung("batched_cpu").run(frames, prepare(rung("batched_cpu").prepare, workload).net))
    row = in_groups("grouped_cpu", together)
    assert_same_answers(list(row.run(frames, prepare(row.prepare, workload).net)), single, 1e-2, 1e-3)


def test_groups_where_some_frames_have_no_box(workload):
    frames = [make_frame(i, seed=40 * i) for i in range(6)]
    row, one = in_groups("grouped_cpu", 3), rung("batched_cpu")
    scores = [found.score.max() for _, found in one.run(frames, prepare(one.prepare, workload).net)]
    some = dataclasses.replace(workload, threshold=float(np.median(scores)))
    single = list(one.run(frames, prepare(one.prepare, some).net))
    assert {len(found) == 0 for _, found in single} == {True, False}
    assert_same_answers(list(row.run(frames, prepare(row.prepare, some).net)), single, 1e-2, 1e-3)


@pytest.mark.parametrize(("precision", "error", "agree"), [("fp32", 1e-3, 1), *further(("bf16", 0.05, 0.9))])
def test_an_engine_answers_groups_as_it_answers_single_frames(precision, error, agree):
    pytest.importorskip("openvino")
    frames = [make_frame(i) for i in range(7)]
    workload = Workload(weights="random", size=TINY, objects=3)
    single = Session(rung(f"cpu_engine_{precision}"), workload, frames).answers(frames)
    for together in (2, 4):
        row = in_groups("grouped_bf16_cpu", together)
        row = dataclasses.replace(row, prepare=dataclasses.replace(row.prepare, precision=precision))
        result = measure_agreement(single, Session(row, workload, frames).answers(frames))
        assert result.share >= agree
        assert result.nan_count == 0
        assert result.relative_error < error


def test_nothing_more_for_now_works_off_a_group(workload):
    row = in_groups("grouped_cpu", 4)
    asked = []

    def fed():
        for item in (make_frame(0), None, None, make_frame(1), make_frame(2), None, make_frame(3)):
            asked.append(item)
            yield item

    at = [(frame.index, len(asked)) for frame, _ in row.run(fed(), prepare(row.prepare, workload).net)]
    assert at == [(0, 2), (1, 6), (2, 6), (3, 7)]  # each as soon as the input has paused or ended


def test_the_path_of_one_frame_is_short(frames):
    """What a reader must follow: 15 functions in 6 files, from the load generator to the detections."""
    session = Session(rung("detr_opencv_cpu"), Workload(weights="random", size=TINY), frames)
    package = str(Path(labkit.__file__).parent)
    called, ends = [], []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            called.append((Path(frame.f_code.co_filename).stem, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        plan = Plan(seconds=1e-9, min_frames=8, warm_frames=2, warm_s=0.0, quick=True)
        session.run(plan, progress=lambda share: ends.append(len(called)))
    finally:
        sys.setprofile(None)
    one_frame = set(called[ends[3] : ends[4]])
    assert {"sequential", "DetrCore.forward", "Detections.__post_init__"} <= {name for _, name in one_frame}
    assert len(one_frame) <= 15, sorted(one_frame)
    assert len({file for file, _ in one_frame}) <= 6, sorted(one_frame)


class Standing:
    """A clock that stands still until someone works."""

    t_s = 100.0

    def now(self):
        return self.t_s

    def work(self, seconds):
        self.t_s += seconds


@pytest.mark.parametrize(("warm_frames", "min_frames"), [(3, 6), (5, 13), (8, 64)])
def test_results_that_were_ready_before_do_not_count_as_made_in_no_time(warm_frames, min_frames):
    clock = Standing()

    def in_fours(frames, net):
        held = []
        for frame in frames:
            held.append(frame)
            if len(held) == 4:
                clock.work(1.0)
                yield from ((each, Detections.empty(each.size)) for each in held)
                held = []
        yield from ((each, Detections.empty(each.size)) for each in held)

    plan = Plan(seconds=1e-9, min_frames=min_frames, warm_frames=warm_frames, warm_s=0.0, quick=True)
    timed = measure(in_fours, None, [make_frame(0)], plan, group=4, clock=Clock(clock.now, clock.work))
    assert len(timed.done_s) % 4 == 0
    assert len(timed.done_s) / timed.done_s[-1] == 4.0


def test_a_turn_is_made_of_whole_groups(frames, workload):
    session = Session(in_groups("grouped_cpu", 3), workload, frames)
    worked = []
    infer = session.prepared.net.detector.infer
    session.prepared.net.detector.infer = lambda x: worked.append(len(x)) or infer(x)
    session.time_frames(4)  # which are no whole groups
    assert worked == [3, 3]
    session.time_frames(2)
    assert worked == [3] * 3


def test_a_group_has_a_size_in_range(workload):
    with pytest.raises(UsageError, match="from 1 to 64, not 0"):
        prepare(in_groups("grouped_cpu", 0).prepare, workload)


@pytest.fixture
def truth_net(monkeypatch):
    """Networks that find the truth, and a note of the frames that they were given."""
    seen = []

    def detect(frames, net):
        for frame in frames:
            seen.append(frame.index)
            yield frame, frame.truth

    monkeypatch.setattr(tracked_module, "batched_crops", detect)
    return lambda every: (seen, types.SimpleNamespace(every=every))


def test_boxes_are_followed_between_detections(truth_net):
    film = [scene_frame(i) for i in range(13)]
    seen, net = truth_net(4)
    answers = [found for _, found in tracked(film, net)]
    assert seen == [0, 4, 8, 12]
    for frame, found in zip(film, answers, strict=True):
        assert found.track_id.tolist() == answers[0].track_id.tolist()
        assert np.diag(box_iou(found.xyxy, frame.truth.xyxy)).mean() > 0.8
        assert found.fine_name == frame.truth.fine_name
    still = np.mean([np.diag(box_iou(answers[0].xyxy, frame.truth.xyxy)).mean() for frame in film[1:4]])
    followed = np.mean(
        [np.diag(box_iou(f.xyxy, x.truth.xyxy)).mean() for f, x in zip(answers[1:4], film[1:4], strict=True)]
    )
    assert followed > still


def test_unrelated_pictures_are_all_detected(truth_net):
    """And so are frames after one without any box, and frames of another size."""
    frames = [scene_frame(150 * i) for i in range(5)]
    frames.insert(2, dataclasses.replace(frames[0], truth=Detections.empty(frames[0].size), index=1))
    frames.append(scene_frame(0, size=(320, 240)))
    seen, net = truth_net(50)
    answers = [found for _, found in tracked(frames, net)]
    assert seen == [frame.index for frame in frames]
    ids = np.concatenate([found.track_id for found in answers])
    assert len(set(ids.tolist())) > len(answers[0])


def test_median_flow_moves_and_scales_a_box():
    rng = np.random.default_rng(0)
    before = cv2.GaussianBlur(rng.integers(0, 256, (240, 320), dtype=np.uint8), (0, 0), 2)
    change = np.float32([[1.05, 0, 6 - 0.05 * 160], [0, 1.05, -4 - 0.05 * 120]])  # about the middle
    now = cv2.warpAffine(before, change, (320, 240), borderMode=cv2.BORDER_REFLECT)
    (box,), seen = flow_boxes(before, now, np.array([[120, 90, 200, 150]], np.float32))
    assert seen.all()
    np.testing.assert_allclose(box, [124, 84.5, 208, 147.5], atol=1)
    flat, (seen,) = flow_boxes(np.zeros_like(before), now, np.array([[120, 90, 200, 150]], np.float32))
    assert not seen and flat[0].tolist() == [120, 90, 200, 150]
    point, _ = flow_boxes(before, now, np.array([[120, 90, 120, 90], [0, 0, 320, 240]], np.float32))
    assert np.isfinite(point).all() and (point[0, :2] == point[0, 2:]).all()
