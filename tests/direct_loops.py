"""The work of the combined rungs as plain scripts: a measure of the lab's own overhead, and its peers.

labkit compare baseline_combined_cpu tests/direct_loops.py:direct
python tests/direct_loops.py  # the same two in one process, with the same networks
labkit compare cpu_engine_fp32 tests/direct_loops.py:openvino_fp32
labkit compare cpu_engine_bf16 tests/direct_loops.py:openvino_bf16
labkit compare cpu_engine_int8 tests/direct_loops.py:openvino_int8
labkit compare peer_onnxruntime_fp32 tests/direct_loops.py:onnxruntime_fp32
labkit compare cpu_engine_bf16 tests/direct_loops.py:compiled_bf16

ONNX Runtime multiplies no bfloat16 on x86. `compiled_int8` needs the package torchao.
"""

import copy

import cv2
import numpy as np
import torch

import labkit
from labkit.models.engines.eager import fold_batch_norms
from labkit.models.engines.engine_cache import cached_file
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

    def __init__(self, module, dtype=torch.float32, layout=torch.channels_last):
        super().__init__()
        self.module, self.dtype, self.layout = module.to(dtype, memory_format=layout), dtype, layout

    def normalised(self, pixels):
        pixels = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        return pixels.to(self.dtype).contiguous(memory_format=self.layout)

    def forward(self, pixels):
        return self.module(self.normalised(pixels))


def pictures(shape):
    """The lab's 32 inputs for quantisation, as bytes (n, h, w, 3)."""
    n, height, width, _ = shape
    inputs = calibration_frames(lambda image: resized(image, (width, height)), (640, 480))
    return [np.stack([inputs[(i + k) % len(inputs)] for k in range(n)]) for i in range(len(inputs))]


def openvino_network(module, example, precision, key):
    import openvino as ov

    def write(path):
        model = ov.convert_model(FromBytes(module).eval(), example_input=example)
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
        ov.save_model(model, path, compress_to_fp16=False)

    model = cached_file(f"{key}-openvino-{ov.__version__}-{precision}", "model.xml", write)
    hint = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}[precision]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = ov.compile_model(model, "CPU", options).create_infer_request()
    return lambda pixels: list(request.infer([pixels], share_inputs=True).values())


def onnxruntime_network(module, example, precision, key):
    import onnxruntime

    def write(path):
        torch.onnx.export(FromBytes(module).eval(), (example,), str(path), dynamo=True, external_data=False)
        if precision == "int8":
            quantise(path, pictures(example.shape))

    path = cached_file(f"{key}-onnxruntime-{onnxruntime.__version__}-{precision}", "network.onnx", write)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch's threads need the cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def quantise(path, inputs):
    """ONNX Runtime's own quantisation of convolutions and matrix products, per channel, in place."""
    from onnxruntime import InferenceSession, quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name):
            self.left = iter([{name: pixels} for pixels in inputs])

        def get_next(self):
            return next(self.left, None)

    ready = path.with_name("ready.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    name = InferenceSession(ready, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantization.quantize_static(
        ready,
        path,
        Reader(name),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add"],
    )


def compiled_network(module, example, precision, key):
    import torch._inductor.config

    torch._inductor.config.freezing = True
    dtype = {"bf16": torch.bfloat16}.get(precision, torch.float32)
    layout, mode = torch.channels_last, "max-autotune-no-cudagraphs"
    if precision == "int8":  # channels last take a third longer here
        layout, mode = torch.contiguous_format, "default"
    network = FromBytes(copy.deepcopy(module), dtype, layout).eval()
    if precision == "int8":
        network.module = eight_bit(network, example, key)
    run = torch.compile(network, mode=mode, dynamic=False)

    def call(pixels):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "int8"):  # all that is not int8
            found = run(torch.from_numpy(pixels))
        return [part.float().numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return call


def eight_bit(network, example, key):
    """The network quantised by torchao for Inductor on x86: convolutions and linear layers, no attention."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    inputs = (network.normalised(example),)

    def write(path):
        fold_batch_norms(network.module)
        graph = torch.export.export(network.module, inputs).module()
        for node in graph.graph.nodes:  # a ReLU that a block uses twice is two for the quantizer then
            if "relu" in node.name:
                node.meta["source_fn_stack"] = [(node.name, torch.nn.ReLU)]
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        observed = prepare_pt2e(graph, quantizer)
        for pixels in pictures(example.shape):
            observed(network.normalised(torch.from_numpy(pixels)))
        torch.export.save(torch.export.export(convert_pt2e(observed), inputs), path)

    with torch.no_grad():
        return torch.export.load(
            cached_file(f"{key}-torch-{torch.__version__}-int8", "network.pt2", write)
        ).module()


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
        build(network, torch.zeros(shape, dtype=torch.uint8), precision, f"direct-{weights[:16]}-{shape}")
        for network, shape, weights in zip(
            (module, classifier.module), shapes, (detector.sha256, classifier.sha256), strict=True
        )
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
    """ONNX Runtime, whose threads sleep when idle; all crops of a frame in one batch."""
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


def compiled_int8(frames):
    """The same, quantised by torchao on the lab's inputs for it, the rest in bfloat16."""
    yield from peer(frames, compiled_network, "int8")


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
