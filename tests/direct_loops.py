"""The work of the combined rungs as plain scripts: a measure of the lab's own overhead, and its peers.

labkit compare baseline_combined_cpu tests/direct_loops.py:direct
labkit compare cpu_engine_bf16 tests/direct_loops.py:openvino_bf16
labkit compare peer_onnxruntime_fp32 tests/direct_loops.py:onnxruntime_fp32
labkit bench cpu_engine_bf16 tests/direct_loops.py:openvino_bf16 tests/direct_loops.py:compiled_bf16
"""

import copy
import tempfile

import cv2
import numpy as np
import torch

import labkit
from labkit.models.trimmed import trimmed

BOXES = 5
MODELS = ("detr_r50", "resnet18")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def as_input(image, size=None):
    """(h, w, 3) bytes -> (1, 3, h, w) float32, resized to (width, height) if asked for."""
    if size is not None:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
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


def openvino_network(module, example):
    import openvino as ov

    model = ov.convert_model(FromBytes(module), example_input=example)
    model.reshape(list(example.shape))
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16"}
    request = ov.compile_model(model, "CPU", options).create_infer_request()
    return lambda pixels: list(request.infer([pixels], share_inputs=True).values())


def onnxruntime_network(module, example):
    import onnxruntime

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        torch.onnx.export(FromBytes(module), (example,), file.name, dynamo=True, external_data=False)
        session = onnxruntime.InferenceSession(file.name, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def compiled_network(module, example):
    import torch._inductor.config

    torch._inductor.config.freezing = True
    network = FromBytes(copy.deepcopy(module), torch.bfloat16).to(memory_format=torch.channels_last).eval()
    run = torch.compile(network, mode="max-autotune-no-cudagraphs", dynamic=False)

    def call(pixels):
        found = run(torch.from_numpy(pixels))
        return [part.float().numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return call


READY = {}
"""Compiled networks by library and size: a measurement calls its loop several times."""


def peer(frames, build):
    """The best boxes and their names by networks that `build` has compiled for one size of frames."""
    for frame in frames:
        height, width = frame.image.shape[:2]
        if (build.__name__, width, height) not in READY:
            READY[build.__name__, width, height] = networks(build, width, height)
        detect, detector_size, classify, side = READY[build.__name__, width, height]
        image = frame.image if detector_size is None else cv2.resize(
            frame.image, detector_size, interpolation=cv2.INTER_AREA
        )  # fmt: skip
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


def networks(build, width, height):
    detector, classifier = (labkit.load_network(model) for model in MODELS)
    size = detector.input.exact
    module = trimmed(detector.module, size or (width, height)).eval()  # no padding, so no mask
    side = classifier.input.exact or (224, 224)
    shapes = ((1, *(size or (width, height))[::-1], 3), (BOXES, *side[::-1], 3))
    parts = [
        build(network, torch.zeros(shape, dtype=torch.uint8))
        for network, shape in zip((module, classifier.module), shapes, strict=True)
    ]
    return parts[0], size, parts[1], side


def crop(image, corner, side):
    """The pixels that a box touches, resized."""
    height, width = image.shape[:2]
    left, top = min(int(corner[0]), width - 1), min(int(corner[1]), height - 1)
    right, bottom = max(int(np.ceil(corner[2])), left + 1), max(int(np.ceil(corner[3])), top + 1)
    return cv2.resize(image[top:bottom, left:right], side, interpolation=cv2.INTER_AREA)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def openvino_bf16(frames):
    """OpenVINO: both networks with their normalisation in bfloat16, all crops of a frame in one batch."""
    yield from peer(frames, openvino_network)


def onnxruntime_fp32(frames):
    """ONNX Runtime with its own settings, whose threads spin; all crops of a frame in one batch."""
    yield from peer(frames, onnxruntime_network)


def compiled_bf16(frames):
    """torch.compile: bfloat16, frozen weights, channels last, kernels timed, no padding mask."""
    yield from peer(frames, compiled_network)
