"""Networks, decoding, engines: against torchvision, transformers and the plain module."""

import copy
import gc
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.bench.frames import collect
from labkit.core.errors import UnavailableError, UsageError, WeightsError
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Preparation, Workload
from labkit.models.callables import Combined, cut
from labkit.models.decode import DetrCore, DetrDecoder
from labkit.models.engines.build import ENGINES, Request, build_engine
from labkit.models.engines.eager import fold_batch_norms
from labkit.models.engines.engine_cache import cached_file
from labkit.models.flops import gflop, gflop_per_frame
from labkit.models.inputs import with_bytes
from labkit.models.networks import build
from labkit.models.prepare import prepare
from labkit.models.preprocess import DETR_INPUT, InputSpec, preprocessor
from labkit.models.third_party import enlarged
from labkit.models.weights import Weights
from labkit.pipelines.ladder import rung

from conftest import TINY, further, make_frame  # isort: skip


@pytest.fixture(scope="module")
def detr():
    return build(Weights("detr_r50", "random", None, "seed 0", ""))


@pytest.fixture(scope="module")
def resnet():
    return build(Weights("resnet18", "random", None, "seed 0", ""))


@pytest.fixture(scope="module")
def pixels():
    return preprocessor("opencv", DETR_INPUT)(make_frame(0).image)


def fake_outputs(queries=100, classes=92, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(queries, classes, generator=generator) * 3
    boxes = torch.rand(queries, 4, generator=generator)
    return logits, boxes


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.99])
def test_decoding_is_that_of_transformers(threshold):
    from transformers import DetrImageProcessor
    from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

    logits, boxes = fake_outputs()
    outputs = DetrObjectDetectionOutput(logits=logits[None], pred_boxes=boxes[None])
    wanted = DetrImageProcessor().post_process_object_detection(
        outputs, threshold=threshold, target_sizes=[(480, 640)]
    )[0]
    names = [f"n{i}" for i in range(91)]
    got = DetrDecoder(names, 100, threshold)((logits[None], boxes[None]), (640, 480))
    order = wanted["scores"].argsort(descending=True)
    np.testing.assert_allclose(got.score, wanted["scores"][order].numpy(), rtol=1e-5)
    assert got.label.tolist() == wanted["labels"][order].tolist()
    assert got.name == tuple(names[i] for i in got.label)
    clipped = wanted["boxes"][order].numpy().clip(0, [640, 480, 640, 480])
    np.testing.assert_allclose(got.xyxy, clipped, atol=1e-3)


@given(st.integers(0, 100), st.integers(0, 10**6))
@settings(max_examples=30)
def test_objects_keeps_the_best(objects, seed):
    logits, boxes = fake_outputs(seed=seed)
    found = DetrDecoder(["x"] * 91, objects)((logits[None], boxes[None]), (64, 48))
    scores = logits.softmax(-1)[:, :-1].max(-1).values.sort(descending=True).values[:objects]
    np.testing.assert_allclose(found.score, scores.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((0, 0, 8, 6), (6, 8)),
        ((2, 2, 2, 2), (1, 1)),
        ((8, 6, 8, 6), (1, 1)),
        ((1.5, 1.5, 2.5, 2.5), (2, 2)),
        ((7.2, 0, 8, 0.1), (1, 1)),
    ],
)
def test_a_crop_has_at_least_one_pixel(box, shape):
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    assert cut(image, np.array(box, np.float32)).shape == (*shape, 3)


def test_a_seed_decides_random_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = build(Weights("resnet18", "random", None, "seed 1", ""))
    assert torch.rand(1) == before
    again = build(Weights("resnet18", "random", None, "seed 1", ""))
    other = build(Weights("resnet18", "random", None, "seed 2", ""))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.labels[0] == "class 0"  # no pretence of recognition


def test_random_detr_answers_depend_on_the_picture(detr, pixels):
    with torch.inference_mode():
        logits, boxes = detr.module(pixels)
        others = detr.module(pixels.flip(-1))
    assert (logits - others[0]).norm() / logits.norm() > 0.02
    assert (boxes - others[1]).abs().max() > 0.01


def test_detr_core_is_the_model_itself(detr, pixels):
    assert isinstance(detr.module, DetrCore)
    with torch.inference_mode():
        logits, boxes = detr.module(pixels)
        whole = detr.module.detr(pixel_values=pixels, pixel_mask=torch.ones(1, *pixels.shape[-2:]))
    torch.testing.assert_close(logits, whole.logits)
    torch.testing.assert_close(boxes, whole.pred_boxes)


def test_work_is_what_the_architecture_says():
    assert gflop("resnet18", (640, 480)) == pytest.approx(3.63, abs=0.01)
    assert gflop("resnet18", (640, 480), crop=True) == pytest.approx(3.63, abs=0.01)
    assert gflop("detr_r50", (640, 480)) == pytest.approx(58.1, abs=0.1)


def trained_looking_norms(module):
    """Norms with statistics as after training, so that folding has something to do."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if hasattr(part, "running_var"):
            n = part.running_mean.shape
            part.running_mean.copy_(torch.randn(n, generator=generator) * 0.1)
            part.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            part.weight.data.copy_(part.weight.data * (torch.rand(n, generator=generator) + 0.5))
            part.bias.data.copy_(torch.randn(n, generator=generator) * 0.1)
    return module


@pytest.mark.parametrize(("which", "norms"), [("detr", 53), ("resnet", 20)])
def test_folding_batch_norms_changes_nothing_but_the_work(which, norms, request, pixels):
    module = trained_looking_norms(copy.deepcopy(request.getfixturevalue(which).module))
    folded = copy.deepcopy(module)
    assert fold_batch_norms(folded) == norms
    with torch.inference_mode():
        wanted, got = module(pixels), folded(pixels)
    wanted, got = (x if isinstance(x, tuple) else (x,) for x in (wanted, got))
    for a, b in zip(wanted, got, strict=True):
        assert (a - b).norm() / a.norm() < 1e-4


# engine, precision, options, largest relative error of the outputs
ENGINE_CASES = [
    ("eager", "fp32", {"fold_batch_norm": True, "channels_last": True}, 1e-4),
    ("openvino", "fp32", {}, 1e-3),
    *further(("openvino", "bf16", {}, 0.1)),
    ("onnxruntime", "fp32", {}, 1e-3),
]


@pytest.mark.parametrize(("engine", "precision", "options", "tolerance"), ENGINE_CASES)
@pytest.mark.parametrize("which", ["resnet", *further("detr")])
def test_an_engine_agrees_with_the_module(
    which, engine, precision, options, tolerance, request, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reason = unmet_requirement([ENGINES[engine][1]])
    if reason:
        pytest.skip(reason)
    network = request.getfixturevalue(which)
    module = with_bytes(network.module, network.input)
    batches = (1,) if which == "detr" else (1, 2, 3)
    images = torch.stack([torch.from_numpy(make_frame(i).image) for i in range(batches[-1])])
    built = build_engine(
        engine,
        Request(module, images[:1], f"test-{which}", precision=precision, options=options, batches=batches),
    )
    for n in batches:
        with torch.inference_mode():
            wanted = module(images[:n])
        got = built(images[:n])
        assert isinstance(got, tuple) == isinstance(wanted, tuple)
        for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (wanted, got)), strict=True):
            assert a.shape == b.shape
            assert (a - b.float()).norm() / a.norm() < tolerance
    first = built(images[:1])[0].clone()
    kept = built(images[:1])[0]
    built(images[-1:])
    torch.testing.assert_close(kept, first)  # an output is not overwritten by the next call


@pytest.mark.skipif(sys.platform != "linux", reason="signals have a stack of their own on Linux")
@pytest.mark.parametrize("ends_in", ["this thread", "another thread"])
def test_a_signal_is_heard_after_engines_have_ended(ends_in, tmp_path, monkeypatch):
    """Where OpenVINO has unmapped the stack of this thread's signals, each signal ends the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pytest.importorskip("openvino")
    module = torch.nn.Conv2d(3, 4, 3).eval()
    engines = [
        build_engine("openvino", Request(module, torch.ones(1, 3, 8, 8), f"test-{i}")) for i in range(2)
    ]

    def end_the_oldest_first():
        while engines:
            engines.pop(0)
            gc.collect()

    if ends_in == "this thread":
        end_the_oldest_first()
    else:
        ending = threading.Thread(target=end_the_oldest_first)
        ending.start()
        ending.join()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(unmet_requirement(["openvino", "nncf"]) is not None, reason="needs OpenVINO and NNCF")
def test_int8_leaves_alone_what_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.add_module("first", torch.nn.Conv2d(3, 8, 3))
    module.add_module("second", torch.nn.Conv2d(8, 8, 3))
    inputs = list(torch.randn(4, 1, 3, 16, 16))
    with torch.no_grad():
        wanted = module(inputs[0])
    counts, errors = [], []
    for left in ((), ("second",), ("first", "second")):
        request = Request(
            module.eval(), inputs[0], "test-left", precision="int8", options={"unquantised": left},
            calibration=lambda: inputs,
        )  # fmt: skip
        engine = build_engine("openvino", request)
        counts.append(sum(op.get_type_name() == "FakeQuantize" for op in engine.graph.get_ops()))
        errors.append(float((engine(inputs[0]) - wanted).norm() / wanted.norm()))
    assert counts[0] > counts[1] > counts[2] == 0
    assert errors[0] > 1e-3 and errors[2] < 1e-5
    for absent in (("secon",), ("second", "third")):
        with pytest.raises(UsageError, match=f"leave {absent[-1]} alone, and no operator"):
            build_engine("openvino", replace(request, options={"unquantised": absent}))


@pytest.mark.skipif(unmet_requirement(["openvino", "nncf"]) is not None, reason="needs OpenVINO and NNCF")
def test_each_way_to_quantise_is_another_model(tmp_path, monkeypatch):
    """Weights or ranges move, and none takes another's file from the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    attention = torch.nn.Sequential()
    for name in ("attn", "out"):
        attention.add_module(name, torch.nn.Linear(32, 32))
        attention.add_module(f"{name}_relu", torch.nn.ReLU())
    inputs = list(torch.randn(8, 1, 6, 32) * torch.logspace(0, 2, 32))  # with outliers, as attention has
    ways = ({}, {"smooth_quant": 0.5}, {"exact_bias": True}, {"calibration_frames": 4})
    answers = []
    for options in ways:
        some = inputs[: options.get("calibration_frames", 8)]
        request = Request(
            attention.eval(), inputs[0], "test-ways", precision="int8", options=options,
            calibration=lambda some=some: some,
        )  # fmt: skip
        answers.append(build_engine("openvino", request)(inputs[0]))
        torch.testing.assert_close(build_engine("openvino", request)(inputs[0]), answers[-1])
    for i, one in enumerate(answers):
        assert not any(torch.equal(one, other) for other in answers[:i]), ways[i]


@pytest.mark.parametrize(("options", "n"), [({}, 32), ({"calibration_frames": 3}, 3)])
def test_as_many_frames_calibrate_as_the_rung_says(options, n, workload, monkeypatch):
    asked = []
    monkeypatch.setattr("labkit.models.prepare.build_engine", lambda name, request: asked.append(request))
    prepare(Preparation("classify", "opencv", precision="int8", options=options), workload)
    assert len(asked[0].calibration()) == n


def test_an_unknown_engine_or_a_missing_gpu_is_said(workload):
    with pytest.raises(UsageError, match="no engine named 'nosuch'"):
        prepare(Preparation("classify", engine="nosuch"), workload)
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="NVIDIA GPU"):
            prepare(Preparation("detect", device="cuda"), workload)


def test_damaged_and_missing_folders_are_said(tmp_path):
    with pytest.raises(WeightsError, match="no folder"):
        build(Weights("detr_r50", "pretrained", tmp_path / "nowhere", "x", ""))
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="resnet18 cannot be built"):
        build(Weights("resnet18", "pretrained", tmp_path / "resnet18-f37072fd.pth", "x", ""))


def test_a_saved_detr_folder_loads_as_the_same_model(detr, tmp_path):
    """The path that pretrained weights take, with random ones in their place."""
    detr.module.detr.config.id2label = {**{i: f"thing {i}" for i in range(91)}, 1: "person", 17: "cat"}
    detr.module.detr.save_pretrained(tmp_path)
    loaded = build(Weights("detr_r50", "pretrained", tmp_path, "local", ""))
    assert loaded.sha256 == detr.sha256
    assert (loaded.labels[1], loaded.labels[17], len(loaded.labels)) == ("person", "cat", 91)


def test_settings_tell_what_was_used():
    prepared = prepare(Preparation("combined", "pil"), Workload(weights="random", size=TINY, objects=3))
    assert isinstance(prepared.net, Combined)
    assert prepared.settings["weights"] == "random"
    assert set(prepared.settings["weights_sha256"]) == {"detr_r50", "resnet18"}
    assert prepared.settings["size"] == list(TINY)
    assert prepared.settings["preparation"]["preprocess"] == "pil"


def test_classifying_a_frame_is_one_box_as_large_as_the_frame(workload):
    frame = make_frame(0)
    net = prepare(Preparation("classify"), Workload(weights="random", size=frame.size)).net
    found = net.decode(net.infer(net.preprocess(frame.image)), frame.size)
    assert found.xyxy.tolist() == [[0, 0, *frame.size]]
    assert len(found) == 1


def test_transformers_own_pipeline_gets_frames_of_the_size_that_its_network_knows():
    own = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert enlarged(own, (640, 480), 800) == (1066, 800)
    assert enlarged(own, (1280, 720), 800) == (1333, 750)
    assert enlarged(InputSpec(exact=(256, 192), mean=(0.5,) * 3, std=(0.5,) * 3), (640, 480), 800) == (
        256,
        192,
    )


@pytest.mark.parametrize("name", ["peer_pipeline_cpu", "peer_shipped_cpu"])
def test_transformers_own_pipeline_finds_what_the_lab_finds(name):
    workload = Workload(model_set="lab", objects=4)
    frames = collect("scenes", workload.size).frames[:4]
    both = [
        [found for _, found in rung(one).run(iter(frames), prepare(rung(one).prepare, workload).net)]
        for one in ("detr_pil_cpu", name)
    ]
    for ours, theirs in zip(*both, strict=True):
        sure = ours.score > 0.5
        assert sure.any()
        np.testing.assert_allclose(theirs.xyxy[sure], ours.xyxy[sure], atol=4)
        assert [theirs.name[i] for i in np.flatnonzero(sure)] == [ours.name[i] for i in np.flatnonzero(sure)]


def test_enlarging_costs_arithmetic():
    plain, enlarging = (rung(name).prepare for name in ("peer_pipeline_cpu", "peer_shipped_cpu"))
    assert plain.work != enlarging.work
    assert gflop_per_frame(plain, Workload()) == pytest.approx(58.1, abs=0.1)
    assert gflop_per_frame(enlarging, Workload()) == pytest.approx(162.3, abs=0.1)


def test_a_cached_engine_of_which_a_part_is_gone_is_made_again(tmp_path, monkeypatch, usual_umask):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write(path):
        path.write_text("graph")
        path.with_suffix(".bin").write_text("weights")

    cached_file("key", "model.xml", write).unlink()
    made = cached_file("key", "model.xml", write)
    assert made.read_text() == "graph" and made.with_suffix(".bin").is_file()
    assert os.name != "posix" or [p.stat().st_mode & 0o777 for p in (made, made.parent)] == [0o644, 0o755]
    assert len(list(made.parents[1].iterdir())) == 1


def test_what_a_killed_process_left_half_made_in_the_cache_goes_a_day_later(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write = lambda path: path.write_text("graph")  # noqa: E731
    engines = cached_file("key", "model.xml", write).parents[1]
    for name, age_s in ((".making-old", 2 * 24 * 3600.0), (".making-new", 60.0)):
        (engines / name).mkdir()
        os.utime(engines / name, (time.time() - age_s,) * 2)
    cached_file("another", "model.xml", write)
    assert [each.name for each in engines.glob(".making-*")] == [".making-new"]
