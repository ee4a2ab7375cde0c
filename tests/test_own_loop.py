"""Loops of one's own as rungs: answers in any form, errors at one's own lines, versions, files."""

from __future__ import annotations

import linecache
import logging
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import cv2
import direct_loops
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.bench.agreement import Answers, extra_share
from labkit.bench.check_loop import SURE, LoopCheck, _figure, try_own_loops
from labkit.bench.frames import collect
from labkit.bench.run import _with_own
from labkit.bench.session import Session
from labkit.bench.worker import Worker
from labkit.core.errors import LabError, LoopError, SourceLost, UsageError
from labkit.core.requirements import unmet_requirement
from labkit.core.trace import recording
from labkit.core.types import Detections, Frame, Workload
from labkit.models.prepare import resolve_all
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.own_loop import as_rung, loop_from_file, own_loop, own_rung, source_of
from labkit.pipelines.plain_answers import as_detections
from labkit.results.records import Agreement

SIZE = (64, 48)
LAB = Workload("lab", size=SIZE)


def frames(n: int = 3) -> list[Frame]:
    return [Frame(np.full((48, 64, 3), 40 * i, np.uint8), i, 0.0) for i in range(n)]


def typed(source: str, name: str, cell: int = 1) -> FunctionType:
    """A function as if it had been typed into a notebook's cell."""
    text, file = textwrap.dedent(source), f"<cell {cell} {hash(source)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), space)
    return space[name]


BOX = np.array([[1, 2, 30, 40]], np.float32)


@pytest.mark.parametrize(
    "answer",
    [
        {"boxes": BOX, "scores": [0.5], "labels": [1]},
        {"boxes": torch.tensor(BOX), "scores": torch.tensor([0.5]), "labels": torch.tensor([1])},
        {"xyxy": BOX.tolist(), "score": 0.5, "names": ["cat"]},
        {"boxes": torch.tensor(BOX, dtype=torch.bfloat16), "scores": [0.5], "labels": [1]},
        (BOX, [0.5], ["cat"]),
        [{"box": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}, "score": 0.5, "label": "cat"}],
        (BOX.astype(np.float64), np.array([0.5], np.float16), np.array([1], np.int8)),
        SimpleNamespace(xyxy=BOX, confidence=np.array([0.5]), class_id=np.array([1])),
        Detections(BOX, np.array([0.5], np.float32), np.array([1]), ("cat",), SIZE),
    ],
)
def test_boxes_are_taken_in_every_usual_form(answer: object) -> None:
    found = as_detections(answer, SIZE, ("dog", "cat"))
    assert found.name == ("cat",) and found.label.tolist() == [1]
    assert found.xyxy.tolist() == BOX.tolist() and found.score.tolist() == [0.5]


@pytest.mark.parametrize("answer", [
        "cat", ("cat", 0.75), (1, torch.tensor(0.75)), 1, {"label": 1}, torch.tensor(1), np.array([1]),
        (torch.tensor([1]), torch.tensor([0.75])),
    ],
)  # fmt: skip
def test_a_name_is_about_the_whole_frame(answer: object) -> None:
    found = as_detections(answer, SIZE, ("dog", "cat"))
    assert found.name == ("cat",) and found.xyxy.tolist() == [[0, 0, *SIZE]]


def test_boxes_may_come_with_labels_alone_with_fine_names_or_with_nothing() -> None:
    assert as_detections((BOX, ["cat"]), SIZE, ("dog", "cat")).label.tolist() == [1]
    assert as_detections(BOX, SIZE).name == ("object",)
    assert len(as_detections([], SIZE)) == len(as_detections(np.empty((0, 4)), SIZE)) == 0
    fine = as_detections({"boxes": BOX, "labels": [0], "fine_labels": [1]}, SIZE, ("dog",), ("pug", "husky"))
    assert fine.fine_name == ("husky",)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((5, 5), np.float32), r"boxes are \(N, 4\).*\(5, 5\)"),
        (np.zeros(4, np.float32), r"boxes are \(N, 4\)"),
        ((1, 2, 30, 40), r"boxes are \(N, 4\)"),
        (([[1, 2, 30, 40], [1, 2]], [0.5, 0.5], [1, 1]), r"boxes are \(N, 4\)"),
        (torch.zeros(1, 4, device="meta"), "meta device"),
        (BOX / 64, "multiply them by the frame's width"),
        (BOX[:, [2, 3, 0, 1]], "centre, width and height"),
        (BOX * np.nan, "NaN"),
        ((BOX, [7.5], [1]), "before softmax"),
        ((BOX, [np.nan], [1]), "scores are .* NaN"),
        ((BOX, [0.5, 0.5], [1]), "1 boxes but 2 scores"),
        ((BOX, [0.5], [1, 2]), "1 boxes but 2 labels"),
        ((BOX, [0.5], [1.5]), "whole numbers or names"),
        ((BOX, [0.5], [None]), "whole numbers or names, not NoneType"),
        ({"logits": BOX}, "boxes, scores and labels, not 'logits'"),
        ({"bbox": BOX, "scores": [0.5, 0.5], "labels": [1, 2]}, "not 'bbox', 'scores', 'labels'"),
        ((BOX[None], [0.5], [1]), r"boxes are .*, not float32 \(1, 1, 4\)"),
        (([0.5, 0.5], BOX, [1, 2]), r"boxes are .*, not \(list, float32 \(1, 4\), list\)"),
        ((BOX, [0.5]), r"with a fraction.*\(boxes, scores, labels\)"),
        ({}, "not nothing"),
        ([{"boxes": BOX, "scores": [0.5], "labels": [1]}], r"found\[0\]"),
        (iter([BOX]), "with yield in it"),
        (None, "the answer is None"),
        (object(), r"boxes are \(N, 4\)"),
    ],
)
def test_what_cannot_be_boxes_is_told_in_a_sentence(answer: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_detections(answer, SIZE)


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=6))
def test_any_answer_gives_detections_or_a_sentence(answer: object) -> None:
    try:
        found = as_detections(answer, SIZE)
    except UsageError:
        return
    assert isinstance(found, Detections)


NAMES = """
    def classify(image):
        return ("square", image.mean() / 255)

    def my_loop(frames):
        for frame in frames:
            with span("classify"):
                yield frame, classify(frame.image)
"""


def with_span(function: FunctionType) -> FunctionType:
    function.__globals__["span"] = labkit.span
    return function


def test_a_generator_a_function_of_an_image_and_one_with_networks_are_rungs() -> None:
    whole = own_rung(with_span(typed(NAMES, "my_loop")), rung_named("resnet_opencv_cpu"))
    image = own_rung(typed(NAMES, "classify"), rung_named("resnet_opencv_cpu"))
    for rung in (whole, image):
        answers = Session(rung, LAB, frames()).answers(frames())
        assert [found.name for found in answers.found] == [("square",)] * 3
    assert (whole.changes, whole.reference, whole.stage) == ("resnet_opencv_cpu", "resnet_opencv_cpu", 1)

    def with_networks(frames, net):
        for frame in frames:
            yield frame, net.decode(net.infer(net.preprocess(frame.image)), frame.size)

    assert labkit.check(with_networks, "resnet_opencv_cpu", frames=2, size=(160, 128)).passed


@pytest.mark.parametrize(
    ("share", "same_name", "nan", "words"),
    [
        (1.0, 0.95, 0, "only 95% of boxes have the same name, and 99% are asked for; it found nothing"),
        (0.57, 0.989, 0, "only 57% of boxes have the same label and place and only 98% of boxes have the"),
        (1.0, None, 3, "on 1 frames: 3 numbers of its raw outputs are NaN or infinite; it found"),
        (1.0, 0.99, 0, "mine agrees with theirs on 1 frames: 100% of its"),
    ],
)
def test_a_check_says_what_its_verdict_is_about(share, same_name, nan, words) -> None:
    agreement = Agreement("theirs", 1, share, same_name, None, nan)
    found = LoopCheck(agreement, Answers("mine", [], {}), Answers("theirs", [], {}), frames()[:1])
    assert words in str(found)
    assert found.passed == ("agrees" in str(found)) == (not agreement.differences)


@pytest.mark.parametrize(("sure", "passes"), [(0.9, False), (0.04, True)])
def test_a_check_counts_boxes_that_the_rung_has_not(sure: float, passes: bool) -> None:
    def one_more(frames, net):
        for frame in frames:
            found = net.decode(net.infer(net.preprocess(frame.image)), frame.size)
            boxes, labels = np.vstack([found.xyxy, [[0, 0, 9, 9]]]), [*found.label, 0]
            yield frame, {"boxes": boxes, "scores": [*found.score, sure], "labels": labels}

    found = labkit.check(one_more, "detr_opencv_cpu", frames=2, size=(160, 128), objects=1)
    assert found.passed == passes and found.agreement.share == 1 and repr(found) == str(found)
    told = "50% of its boxes are extra: detr_opencv_cpu has no box for them; it found 4, and 2 are expected"
    assert (told in str(found)) == (not passes)


def test_a_box_that_the_rung_leaves_out_for_its_score_is_no_extra_one() -> None:
    def all_sure(frames, net):
        decode = replace(net.decode, objects=8, threshold=0.5)
        for frame in frames:
            yield frame, decode(net.infer(net.preprocess(frame.image)), frame.size)

    found = labkit.check(all_sure, "detr_opencv_cpu", frames=2, objects=1, seed=8)  # four things in each
    assert found.passed and sum(map(len, found.answers.found)) > 2 == sum(map(len, found.expected.found))


def test_spans_without_a_frame_belong_to_the_frame_taken_last() -> None:
    rung = own_rung(with_span(typed(NAMES, "my_loop")))
    with recording() as record:
        list(rung.run(frames(), None))
    assert [(span.name, span.index) for span in record.spans()] == [("classify", i) for i in range(3)]


BROKEN = """
    def helper(image):
        return image @ image

    def broken(frames):
        for frame in frames:
            yield frame, helper(frame.image)
"""


def test_an_error_shows_the_learners_own_lines_and_none_of_the_labs() -> None:
    rung = own_rung(typed(BROKEN, "broken"))
    with pytest.raises(LoopError) as caught:
        list(rung.run(frames(), None))
    lines = str(caught.value).splitlines()
    assert lines[0] == "broken failed:" and lines[-1].startswith("ValueError: matmul")
    assert "line 7, in broken" in lines[1] and lines[2].strip() == "yield frame, helper(frame.image)"
    assert "line 3, in helper" in lines[3] and lines[4].strip() == "return image @ image"
    assert len(lines) == 6 and "labkit" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_lab_errors_show_as_one_sentence_in_a_notebook() -> None:
    assert UsageError("size is no size")._render_traceback_() == ["UsageError: size is no size"]
    with pytest.raises(LabError) as caught:
        labkit.bench("no_such_rung")
    assert len(caught.value._render_traceback_()) == 1


def test_a_loop_goes_to_a_process_of_its_own_with_what_it_uses() -> None:
    rung = own_rung(with_span(typed(NAMES, "my_loop")), rung_named("resnet_opencv_cpu"))
    broken = own_rung(typed(BROKEN, "broken"), rung_named("resnet_opencv_cpu"))
    weights = resolve_all(LAB)
    with Worker(rung, LAB, frames(), weights) as worker:
        answers = worker.answers(frames())
        assert [found.name for found in answers.found] == [("square",)] * 3
        with pytest.raises(LoopError, match="line 3, in helper"):
            worker.become(broken, LAB, frames(), weights)


@pytest.mark.parametrize(
    ("script", "needs", "share"),
    [
        ("openvino_fp32", "openvino", 1.0),
        ("openvino_bf16", "openvino", 0.9),
        ("openvino_int8", "nncf", 0.8),
        ("onnxruntime_fp32", "onnxscript", 1.0),
        ("onnxruntime_int8", "onnxscript", 0.6),
        ("compiled_fp32", "torch", 1.0),
        ("compiled_bf16", "bf16", 0.9),
        ("compiled_int8", "torchao", 0.8),
    ],
)
@pytest.mark.extended
def test_the_scripts_of_peers_do_the_same_work(
    script: str, needs: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := unmet_requirement([needs]):
        pytest.skip(reason)
    monkeypatch.setattr(direct_loops, "MODELS", ("lab_detr", "lab_resnet"))
    found = labkit.check(getattr(direct_loops, script), "batched_cpu", size=(320, 240))
    assert found.agreement.share >= share and found.agreement.same_name >= 2 * share - 1


def test_the_baseline_does_what_the_plain_script_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_loops, "MODELS", ("lab_detr", "lab_resnet"))
    shown = collect("scenes", (320, 240)).frames[:3]
    workload = replace(LAB, size=(320, 240), objects=direct_loops.BOXES)
    session = Session(rung_named("baseline_combined_cpu"), workload, shown)
    plain = [found for _, found in own_rung(direct_loops.direct).run(shown, session.prepared.net)]
    for found, wanted in zip(plain, session.answers(shown).found, strict=True):
        np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.01)
        np.testing.assert_allclose(found.score, wanted.score, atol=1e-4)
        assert (list(found.label), list(found.fine_label)) == (list(wanted.label), list(wanted.fine_label))


def test_a_session_that_is_made_at_the_first_frame_is_made_in_each_process(tmp_path: Path) -> None:
    """The trial fills no global of the user's: what it makes there (here a lock) cannot be sent."""
    code = """
        import threading

        session = None


        def lazily(image):
            global session
            if session is None:
                session = threading.Lock()
            with session:
                return "square"
    """
    path = tmp_path / "lazy.py"
    path.write_text(textwrap.dedent(code))
    loop = as_rung(f"{path}:lazily")
    for _ in range(2):  # a second measurement starts from the same
        try_own_loops([loop], LAB, frames(), resolve_all(LAB))
        with Worker(loop, LAB, frames(), resolve_all(LAB)) as worker:
            assert [found.name for found in worker.answers(frames()).found] == [("square",)] * 3


def test_what_cannot_be_sent_is_named_before_anything_is_measured() -> None:
    loop = typed(NAMES, "classify")
    loop.__globals__["image"] = None
    held = typed("def holds(image):\n    return lock and 'a'", "holds")
    held.__globals__["lock"] = __import__("threading").Lock()
    with pytest.raises(UsageError, match=r"holds cannot be sent.*lock"):
        try_own_loops([own_rung(held)], LAB, frames(), {})


def test_the_version_is_that_of_the_source_and_of_what_it_uses() -> None:
    first, changed = typed(NAMES, "my_loop"), typed(NAMES.replace("255", "256"), "my_loop", 2)
    assert source_of(first) == source_of(typed(NAMES, "my_loop", 3)) != source_of(changed)
    constant = "K = {}\ndef uses(image):\n    return str(K)"
    assert source_of(typed(constant.format(1), "uses")) != source_of(typed(constant.format(2), "uses"))
    old = own_rung(first)
    new = own_rung(changed)
    assert as_rung("my_loop") == new and as_rung("my_loop@previous").run is old.run
    assert as_rung(f"my_loop@{own_loop(old).sha256[:7]}").run is old.run
    with pytest.raises(UsageError, match="other has no version before this one"):
        as_rung("other@previous")


OBJECTS = """
    import functools

    class Loop:
        def __init__(self, k): self.k = k
        def __call__(self, frames):
            for f in frames: yield f, "cat"

    @functools.lru_cache
    def helper(k): return 2 * k

    def loop(k, frames):
        for f in frames: yield f, helper(k) * "a"
"""


def test_the_version_of_an_object_or_a_partial_is_that_of_its_text_and_parts() -> None:
    made, changed = typed(OBJECTS, "Loop"), typed(OBJECTS.replace('"cat"', '"dog"'), "Loop")
    assert source_of(made(1)) == source_of(made(1)) != source_of(made(2))
    assert source_of(made(1)) != source_of(changed(1)) and "0x" not in source_of(made(1))
    loop, other = typed(OBJECTS, "loop"), typed(OBJECTS.replace("2 * k", "3 * k"), "loop")
    assert source_of(partial(loop, 1)) == source_of(partial(loop, 1)) != source_of(partial(loop, 2))
    assert source_of(partial(loop, 1)) != source_of(partial(other, 1)) and source_of(loop) != source_of(other)
    assert own_rung(partial(loop, 1)).name == labkit.history(partial(loop, 1)).rung == "loop"
    assert labkit.history(made(1)).rung == "Loop"


def test_two_loops_of_one_name_are_told_and_none_is_dropped() -> None:
    for two in ([lambda image: "a", lambda image: "b"], [Named("a"), Named("b")]):
        with pytest.raises(UsageError, match="two loops are named"):
            _with_own(two, None)
    assert len(_with_own([Named("a"), Named("a")], None)) == 1


def test_a_loop_in_the_place_of_a_rungs_name_is_told() -> None:
    with pytest.raises(UsageError, match=r"the name of a rung is a string, .* not function"):
        labkit.check(typed(NAMES, "classify"), typed(NAMES, "classify"))  # type: ignore[arg-type]


def test_an_address_in_a_loop_is_kept_without_its_password() -> None:
    text = "CAMERA = 'rtsp://joe:s3cret@camera/live?key=s3cret'\ndef uses(image):\n    return CAMERA or {}"
    kept = source_of(typed(text.format('"http://joe:s3 cret@camera"'), "uses"))
    assert "s3" not in kept and "rtsp://***@camera/live?***" in kept and '"http://***"' in kept


def test_a_changed_loop_is_compared_with_the_version_before_in_one_call() -> None:
    old, new = (typed(f"def twice(image): return {n} * 'a'", "twice") for n in (1, 2))
    as_rung(old)
    assert [rung.run.function for rung in _with_own(["twice@previous", new], None)] == [old, new]


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (typed("def loop():\n    yield 1", "loop"), r"not 0 parameters: def loop\(frames\)"),
        (typed("def detr_opencv_cpu(image): pass", "detr_opencv_cpu"), "the name of a rung of the lab"),
        (typed("def loop(frames, net):\n    yield 1", "loop"), "against="),
        (typed("def loop(a, b, c):\n    yield 1", "loop"), "not 3 parameters"),
        (typed("def loop(a, b): pass", "loop"), "neither a generator"),
        (typed("def loop(frames):\n    yield 1", "loop")([]), "without \\(\\)"),
        (typed("async def loop(frames):\n    yield 1", "loop"), "not async def"),
        (typed("class Loop: pass", "Loop"), "is a class"),
        (7, "a name or a loop of yours"),
        (torch.nn.Identity(), "Identity is a network, not a loop: it takes a tensor"),
        (SimpleNamespace(module=torch.nn.Identity()), "write a function around it"),  # as load_network's
    ],
)
def test_what_is_no_loop_is_told(loop: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_rung(loop)


class Named:
    """A loop that keeps something from frame to frame."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, frames: Any) -> Any:
        for frame in frames:
            yield frame, self.name


@pytest.mark.parametrize("loop", [lambda image: "cat", Named("cat")])
def test_any_callable_is_a_loop(loop: Any) -> None:
    assert [found.name for _, found in own_rung(loop).run(frames(), None)] == [("cat",)] * len(frames())


@pytest.mark.parametrize("answer", ["frame.image", "frame, 7.5, 3", "(3, frame)", "frame.image, 3"])
def test_a_loop_yields_pairs(answer: str) -> None:
    loop = typed(f"def loop(frames):\n    for frame in frames:\n        yield {answer}", "loop")
    with pytest.raises(UsageError, match=r"has to yield frame, found; it gave .*$") as refused:
        list(own_rung(loop).run(frames(), None))
    assert "\n" not in str(refused.value), "an array is told by its type and shape"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    return\n    yield", "ended before frame 0"),
        ("    yield next(frames), 'cat'", "ended before frame 1"),
        ("    for f in frames:\n        if f.index % 2: yield f, 'cat'", "no answer for the only frame"),
        ("    for f in frames: yield f, 'cat'; yield f, 'cat'", "6 answers for 3 frames"),
        ("    raise SystemExit(3)\n    yield", "(?s)line 2, in loop.*SystemExit: 3"),
        ("    yield next(frames), 'cat'\n    yield next(iter([]))", "(?s)line 3, in loop.*StopIteration$"),
        ("    for f in [*frames][::-1]: yield f, 'cat'", "answered frame 2 where frame 0 was due"),
        ("    held = [*frames]\n    for _ in held: yield held[0], 'cat'", "frame 0 where frame 1 was due"),
        (
            "    return [(f, 'cat') for f in frames]",
            r"loop \(has no yield, so it is given one image\), frame 0",
        ),
        ("    return frames.nosuch", r"loop \(has no yield, so it is given one image\) failed"),
    ],
)
def test_each_frame_has_one_answer(body: str, words: str) -> None:
    loop = typed(f"def loop(frames):\n{body}", "loop")
    with pytest.raises(LabError, match=words):
        Session(own_rung(loop), LAB, frames()).answers(frames())


def test_an_error_of_the_lab_is_told_at_the_loops_own_line() -> None:
    text = "import labkit\ndef loop(frames):\n    for f in frames:\n        yield f, labkit.rung('none')"
    with pytest.raises(LoopError, match=r"(?s)line 4, in loop.*\nUsageError: no rung named 'none'") as caught:
        list(own_rung(typed(text, "loop")).run(frames(), None))
    assert len(str(caught.value).splitlines()) == 4, "none of the lab's lines"

    def lost() -> Any:
        yield frames()[0]
        raise SourceLost("the camera is gone")

    with pytest.raises(SourceLost):  # of the frames, not of the loop
        list(own_rung(with_span(typed(NAMES, "my_loop"))).run(lost(), None))


def test_a_loop_that_cannot_be_called_shows_none_of_the_labs_lines() -> None:
    loop = own_rung(typed("def loop(frames, *, net):\n    yield 1", "loop"))
    with pytest.raises(LoopError, match=r"^loop failed:\nTypeError: loop\(\) missing 1 required"):
        list(loop.run(frames(), None))


def test_a_loop_that_draws_on_its_frames_is_told_and_spoils_them_for_nobody() -> None:
    loop = typed("def loop(image):\n    image[:4] = 255\n    return 'cat'", "loop")
    given = frames()
    session = Session(own_rung(loop), LAB, given)
    with pytest.raises(UsageError, match=r"loop writes into frame.image \(frame 0\).*image.copy\(\)"):
        session.answers(given)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(given, frames(), strict=True))


INTERRUPTED_IMPORT = """
import signal, types, labkit
signal.signal(signal.SIGINT, signal.default_int_handler)
done = []

def import_module(name):
    signal.raise_signal(signal.SIGINT)
    done.append(name)
    return types.SimpleNamespace(bench=7)

labkit.importlib = types.SimpleNamespace(import_module=import_module)
try:
    labkit.bench
except KeyboardInterrupt:
    print("interrupted after", *done)
"""


def test_an_interrupt_waits_until_the_lab_is_imported() -> None:
    # in a process of its own: xdist's dies of an interrupt
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "interrupted after labkit.bench.run\n", done.stderr


def test_a_torch_that_was_half_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ImportError("`torch` can only be initialized once per process, so this module cannot ...")

    monkeypatch.setattr(labkit, "importlib", SimpleNamespace(import_module=import_module))
    monkeypatch.setitem(vars(labkit), "bench", None)
    monkeypatch.delitem(vars(labkit), "bench")
    with pytest.raises(LabError, match="restart the kernel"):
        labkit.bench  # noqa: B018


def test_a_loop_from_a_file_sees_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "shades.py").write_text(
        "def shade(image):\n    return 'dark' if image.mean() < 60 else 'light'\n"
    )
    file = tmp_path / "my_loops.py"
    file.write_text("from shades import shade\ndef fast_one(image):\n    return shade(image)\n")
    rung = as_rung(f"{file}:fast_one", rung_named("resnet_opencv_cpu"))
    with Worker(rung, LAB, frames(), resolve_all(LAB)) as worker:
        assert [f.name[0] for f in worker.answers(frames()).found] == ["dark", "dark", "light"]
    for spec, words in ((f"{file}:slow", "it has shade, fast_one"), ("none.py:f", "no file none.py")):
        with pytest.raises(UsageError, match=words):
            loop_from_file(spec)
    with pytest.raises(UsageError, match=r"which function of .*my_loops\.py:shade or .*:fast_one"):
        as_rung(str(file))
    for broken in ("1 / 0", "raise SystemExit(3)"):
        file.write_text(f"import cv2\n{broken}\n")
        with pytest.raises(LoopError, match="line 2"):
            loop_from_file(f"{file}:fast_one")


def test_a_loop_is_measured_beside_a_rung_and_kept_with_its_source() -> None:
    loop = with_span(typed(NAMES, "my_loop"))
    work: dict[str, Any] = {"source": "scenes", "size": (160, 128), "model_set": "lab", "quick": True}
    result = labkit.bench(loop, against="resnet_opencv_cpu", seconds=0.2, **work)
    run = result.run("my_loop")
    assert run.settings["weights"] == "own" and run.share_of_limit is None and "classify" in run.spans_ms
    assert run.settings["loop_source"] == source_of(loop)
    assert not result.comparison("resnet_opencv_cpu", "my_loop").agrees  # it names everything a square
    found = labkit.history(loop)
    assert [r.settings["loop_sha256"] for r in found.runs] == [own_loop(as_rung("my_loop")).sha256]
    assert "no earlier run" in str(found) and found.table()["version"][0] in str(found)
    assert found.plot().alt_text.startswith("Throughput of my_loop in 1 runs")


def test_the_arithmetic_of_a_loop_with_networks_of_its_own_is_counted() -> None:
    code = "import torch\ndef loop(image):\n    torch.ones(4, 8) @ torch.ones(8, 16)\n    return 'cat'"
    rungs = [as_rung(typed(code, "loop")), rung_named("resnet_opencv_cpu")]
    counted = try_own_loops(rungs, LAB, frames(), resolve_all(LAB))
    assert counted == {"loop": pytest.approx(2 * 4 * 8 * 16 / 1e9)}


def test_what_is_unsure_is_counted_below_the_picture():
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0)

    def caption(scores):
        boxes = {"boxes": [[1, 2, 30, 40]] * len(scores), "scores": scores, "labels": [1] * len(scores)}
        return _figure(frame, Answers("mine", [as_detections(boxes, frame.size)], {}))

    assert f"; 1 below {SURE}" in caption([0.9, 0.1])
    assert "below" not in caption([0.9, 0.8])


def test_a_loop_that_compiles_is_not_warned_of_a_missing_gpu() -> None:
    from torch.utils import cpp_extension

    torch._logging._internal._init_logs()  # as the first compilation does
    assert not logging.getLogger(cpp_extension.__name__).isEnabledFor(logging.WARNING)


def test_a_loop_with_networks_is_profiled_with_those_of_a_rung_and_told_whose_it_lacks() -> None:
    loop = typed("def loop(frames, net):\n    for f in frames: yield f, net and 'cat'", "loop")
    work: dict[str, Any] = {"size": (160, 128), "model_set": "lab"}
    run = labkit.pipeline(loop, "scenes", 2, against="resnet_opencv_cpu", **work)
    assert [found.name for _, found in run()] == [("cat",)] * 2
    with pytest.raises(UsageError, match=r"whose: against='detr_opencv_cpu' \(labkit.live: compare\)"):
        labkit.profile(loop, 2, source="scenes", **work)


def test_a_loop_in_the_wrong_place_of_the_live_view_is_told() -> None:
    loop = typed("def loop(frames):\n    yield 1", "loop")
    for wrong, words in (
        ((loop,), r"rung=my_loop"),
        (("scenes", loop([])), r"without \(\)"),
        (("scenes", 7), "not int 7"),
    ):
        with pytest.raises(UsageError, match=words):
            labkit.live(*wrong)


def test_arithmetic_that_torch_cannot_see_is_no_figure() -> None:
    code = """
        import torch
        from torch.utils._python_dispatch import _get_current_dispatch_mode as watched
        def loop(image):
            if watched() is not None:
                raise RuntimeError("compiled code has no operations to look at")
            return "cat"
    """
    loop = as_rung(typed(code, "loop"))
    assert try_own_loops([loop], LAB, frames(), resolve_all(LAB)) == {}


@pytest.mark.parametrize(
    ("line", "words"), [("frame.nosuch", "nosuch"), ("frame.image[:] = 0", r"writes into frame\.image")]
)
def test_a_fault_in_the_second_frame_is_told_before_anything_is_counted(line: str, words: str) -> None:
    code = f"""
        def loop(frames):
            for frame in frames:
                if frame.index == 1:
                    {line}
                yield frame, "cat"
    """
    with pytest.raises(LabError, match=words):
        try_own_loops([as_rung(typed(code, "loop"))], LAB, frames(), resolve_all(LAB))


@pytest.mark.skipif(sys.platform != "linux", reason="only there a window without a screen ends the process")
@pytest.mark.parametrize("call", ["imshow('w', image)", "namedWindow('w')", "selectROI(image)"])
def test_a_window_without_a_screen_is_an_error_and_not_the_end(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("imshow", "namedWindow", "selectROI", "selectROIs"):
        monkeypatch.setattr(cv2, name, getattr(cv2, name))  # to have it back after the test
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    loop = typed(f"import cv2\ndef loop(image):\n    cv2.{call}\n    return 'cat'", "loop")
    with pytest.raises(LoopError, match=r"line 3, in loop(.|\n)*no screen for a window; labkit.live"):
        labkit.check(loop, against="resnet_opencv_cpu", source="scenes", size=(160, 128), model_set="lab")


def test_a_box_just_above_the_lowest_score_is_there_or_not_by_rounding() -> None:
    def seen(scores: list[float]) -> Answers:
        n = len(scores)
        corners = np.array([[9 * k, 0, 9 * k + 8, 8] for k in range(n)], np.float32).reshape(n, 4)
        found = Detections(
            corners, np.array(scores, np.float32), np.zeros(n, np.int64), ("cat",) * n, (99, 9)
        )
        return Answers("made up", [found], {})

    for more, share in ([], 0.0), ([0.54], 0.0), ([0.56], 0.5), ([0.56, 0.9], 2 / 3):
        assert extra_share(seen([0.9]), seen([0.9, *more]), threshold=0.5) == pytest.approx(share)
    assert extra_share(seen([0.9]), seen([0.9, 0.8]), objects=1, threshold=0.5) == 0
