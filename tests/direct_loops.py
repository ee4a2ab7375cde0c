"""The work of the combined rungs as plain scripts: a measure of the lab's own overhead, and its peers.

labkit compare baseline_combined_cpu tests/direct_loops.py:direct
python tests/direct_loops.py  # the same two in one process, with the same networks
labkit compare cpu_engine_fp32 tests/direct_loops.py:openvino_fp32
labkit compare cpu_engine_bf16 tests/direct_loops.py:openvino_bf16
labkit compare cpu_engine_int8 tests/direct_loops.py:openvino_int8
labkit compare peer_onnxruntime_fp32 tests/direct_loops.py:onnxruntime_fp32
labkit bench cpu_engine_bf16 tests/direct_loops.py:openvino_bf16 tests/direct_loops.py:compiled_bf16

ONNX Runtime multiplies no bfloat16 on x86, and torch.compile no int8 without torchao.
"""

import copy
import tempfile

import cv2
import numpy as np
import torch

import labkit
from labkit.models.inputs import calibration_frames
from labkit.models.trimmed import trimmed

BOXES = 5
MODELS = ("detr_r50", "resnet18")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def resized(image, size):
    """(h, w, 3) bytes, in (width, height): shrunk by averaging areas, enlarged linearly."""
    height, width = image.shape[:2]
    smaller = cv2.resize(image, (min(width, size[0]), min(height, size[1])), interpolation=cv2.INTER_AREA)
    return cv2.resize(smaller, size, interpolation=cv2.INTER_LINEAR)


def as_input(image, size=None):
    """(h, w, 3) bytes -> (1, 3, h, w) float32, resized to (width, height) if asked for."""
    if size is not None:
        image = resized(image, size)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return ((pixels - MEAN) / STD).unsqueeze(0)


def direct(frames):
    """All queries one by one, then one crop after another."""
    detector, classifier = (labkit.load_network(model) for model in MODELS)
    side = classifier.input.exact or (224, 224)
    for frame in frames:
        height, width = frame.image.shape[:2]
        with torch.inference_mode():
            logits, places = detector.module(as_input(frame.image, detector.input.exact))
            scores, labels = logits[0].softmax(-1)[:, :-1].max(-1)
            order = sorted(range(len(scores)), key=lambda query: -scores[query].item())
            corners, kept, names, fine, fine_scores = [], [], [], [], []
            for query in order[:BOXES]:
                x, y, w, h = (places[0, query] * torch.tensor([width, height, width, height])).tolist()
                left, top = max(x - w / 2, 0), max(y - h / 2, 0)
                right, bottom = min(x + w / 2, width), min(y + h / 2, height)
                corners.append((left, top, right, bottom))
                kept.append(scores[query].item())
                names.append(labels[query].item())
                rows = slice(min(int(top), height - 1), max(int(np.ceil(bottom)), int(top) + 1))
                columns = slice(min(int(left), width - 1), max(int(np.ceil(right)), int(left) + 1))
                probabilities = classifier.module(as_input(frame.image[rows, columns], side))[0].softmax(0)
                fine.append(probabilities.argmax().item())
                fine_scores.append(probabilities[fine[-1]].item())
        yield frame, {
            "boxes": corners, "scores": kept, "labels": names, "fine_labels": fine, "fine_scores": fine_scores
        }  # fmt: skip


class FromBytes(torch.nn.Module):
    """A network with normalisation inside: (n, h, w, 3) bytes go in."""

    def __init__(self, module, dtype=torch.float32):
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def forward(self, pixels):
        pixels = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        return self.module(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last))


def pictures(shape):
    """The lab's 32 inputs for quantisation, as bytes (n, h, w, 3)."""
    n, height, width, _ = shape
    inputs = calibration_frames(lambda image: resized(image, (width, height)), (640, 480))
    return [np.stack([inputs[(i + k) % len(inputs)] for k in range(n)]) for i in range(len(inputs))]


def openvino_network(module, example, precision):
    import openvino as ov

    model = ov.convert_model(FromBytes(module), example_input=example)
    model.reshape(list(example.shape))
    if precision == "int8":
        import nncf

        attends = any("attn" in name for name, _ in module.named_modules())
        model = nncf.quantize(
            model,
            nncf.Dataset(pictures(example.shape)),
            subset_size=32,
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
    hint = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}[precision]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = ov.compile_model(model, "CPU", options).create_infer_request()
    return lambda pixels: list(request.infer([pixels], share_inputs=True).values())


def onnxruntime_network(module, example, precision):
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        torch.onnx.export(FromBytes(module), (example,), path, dynamo=True, external_data=False)
        if precision == "int8":
            path = quantised(path, pictures(example.shape))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def quantised(path, inputs):
    """ONNX Runtime's own quantisation of convolutions and matrix products, per channel."""
    from onnxruntime import InferenceSession, quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name):
            self.left = iter([{name: pixels} for pixels in inputs])

        def get_next(self):
            return next(self.left, None)

    ready, int8 = path.replace(".onnx", "-ready.onnx"), path.replace(".onnx", "-int8.onnx")
    quant_pre_process(path, ready, skip_symbolic_shape=True)
    name = InferenceSession(ready, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantization.quantize_static(
        ready,
        int8,
        Reader(name),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add"],
    )
    return int8


def compiled_network(module, example, precision):
    import torch._inductor.config

    torch._inductor.config.freezing = True
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    network = FromBytes(copy.deepcopy(module), dtype).to(memory_format=torch.channels_last).eval()
    run = torch.compile(network, mode="max-autotune-no-cudagraphs", dynamic=False)

    def call(pixels):
        found = run(torch.from_numpy(pixels))
        return [part.float().numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return call


READY = {}
"""Compiled networks by library, precision and size: a measurement calls its loop several times."""


def peer(frames, build, precision):
    """The best boxes and their names by networks that `build` has compiled for one size of frames."""
    for frame in frames:
        height, width = frame.image.shape[:2]
        key = (build.__name__, precision, width, height)
        if key not in READY:
            READY[key] = networks(build, precision, width, height)
        detect, detector_size, classify, side = READY[key]
        image = frame.image if detector_size is None else resized(frame.image, detector_size)
        with torch.no_grad():
            logits, places = (part[0] for part in detect(image[None]))
            chances = softmax(logits)[:, :-1]
            best = np.argsort(-chances.max(-1))[:BOXES]
            x, y, w, h = (places[best] * [width, height, width, height]).T
            corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
            corners = np.clip(corners, 0, [width, height, width, height])
            crops = [crop(frame.image, corner, side) for corner in corners]
            fine = softmax(classify(np.stack(crops))[0])
        yield frame, {
            "boxes": corners, "scores": chances[best].max(-1), "labels": chances[best].argmax(-1),
            "fine_labels": fine.argmax(-1), "fine_scores": fine.max(-1),
        }  # fmt: skip


def networks(build, precision, width, height):
    detector, classifier = (labkit.load_network(model) for model in MODELS)
    size = detector.input.exact
    module = trimmed(detector.module, size or (width, height)).eval()  # no padding, so no mask
    side = classifier.input.exact or (224, 224)
    shapes = ((1, *(size or (width, height))[::-1], 3), (BOXES, *side[::-1], 3))
    parts = [
        build(network, torch.zeros(shape, dtype=torch.uint8), precision)
        for network, shape in zip((module, classifier.module), shapes, strict=True)
    ]
    return parts[0], size, parts[1], side


def crop(image, corner, side):
    """The pixels that a box touches, resized."""
    height, width = image.shape[:2]
    left, top = min(int(corner[0]), width - 1), min(int(corner[1]), height - 1)
    right, bottom = max(int(np.ceil(corner[2])), left + 1), max(int(np.ceil(corner[3])), top + 1)
    return resized(image[top:bottom, left:right], side)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def openvino_fp32(frames):
    """OpenVINO: both networks with their normalisation, all crops of a frame in one batch."""
    yield from peer(frames, openvino_network, "fp32")


def openvino_bf16(frames):
    """The same in bfloat16."""
    yield from peer(frames, openvino_network, "bf16")


def openvino_int8(frames):
    """The same, quantised by NNCF on the lab's inputs for it, the rest in bfloat16."""
    yield from peer(frames, openvino_network, "int8")


def onnxruntime_fp32(frames):
    """ONNX Runtime with its own settings, whose threads spin; all crops of a frame in one batch."""
    yield from peer(frames, onnxruntime_network, "fp32")


def onnxruntime_int8(frames):
    """The same, quantised by ONNX Runtime on the lab's inputs for it."""
    yield from peer(frames, onnxruntime_network, "int8")


def compiled_fp32(frames):
    """torch.compile: frozen weights, channels last, kernels timed, no padding mask."""
    yield from peer(frames, compiled_network, "fp32")


def compiled_bf16(frames):
    """The same in bfloat16."""
    yield from peer(frames, compiled_network, "bf16")


def same_networks(boxes, turns=12):
    """How many times as long the baseline takes as `direct`, both with one and the same networks in memory.

    Where a network lies in memory makes processes differ by a tenth; in one process, in turns, it does not.
    """
    import time
    from unittest.mock import patch

    from labkit.core.types import Workload
    from labkit.models.prepare import prepare
    from labkit.pipelines.ladder import rung

    with labkit.open_source("photos") as source:
        frames = [frame for _, frame in zip(range(2), source, strict=False)]
    baseline = rung("baseline_combined_cpu")
    net = prepare(baseline.prepare, Workload(weights="random", objects=boxes)).net
    loaded = dict(zip(MODELS, (net.detector.network, net.classifier.network), strict=True))
    loops = {"baseline": lambda frames: baseline.run(frames, net), "direct": direct}
    spent_s = {name: [] for name in loops}
    order = np.random.default_rng(0)
    with patch("labkit.load_network", loaded.get), patch(f"{__name__}.BOXES", boxes):
        for _ in range(1 + turns):
            for name in order.permutation(list(loops)):
                begun = time.process_time()
                list(loops[name](frames))
                spent_s[name].append(time.process_time() - begun)
    return float(np.median(np.array(spent_s["baseline"][1:]) / np.array(spent_s["direct"][1:])))


if __name__ == "__main__":
    for boxes in (5, 15):
        print(
            f"{boxes} boxes: the baseline takes {same_networks(boxes):.3f} times the processor time of direct"
        )
