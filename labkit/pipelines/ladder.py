"""The ladder: every rung is one row, and changes one thing of the rung it names.

Tests, tables, plots, the live view and the notebooks iterate `LADDER`. A new rung is a new
row; a new schedule is a new generator in this folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labkit.core.errors import UsageError
from labkit.core.requirements import fallback, unmet_requirement
from labkit.core.shown import shown_table, table_html
from labkit.core.types import FilterStep, Preparation, Rung, describe_value
from labkit.pipelines.baseline import baseline_combined
from labkit.pipelines.combined import awake_crops, batched_crops, one_by_one
from labkit.pipelines.filtered import filtered_baseline, filtered_batched, filtered_on_device
from labkit.pipelines.former_names import FORMER_NAMES
from labkit.pipelines.grouped import grouped, grouped_on_device
from labkit.pipelines.multi_stream import (
    baseline_streams,
    launched_ahead,
    ring_of_stages,
    ring_of_streams,
    threaded,
)
from labkit.pipelines.sequential import sequential
from labkit.pipelines.tracked import tracked

if TYPE_CHECKING:
    import pandas as pd

_FOLDED: dict[str, Any] = {"fold_batch_norm": True, "channels_last": True}

STAGE_1 = (
    Rung(
        "resnet_pil_cpu", 1, sequential, Preparation("classify", "pil"),
        changes=None, reference="resnet_pil_cpu",
        about="ResNet-18 names the whole frame; Pillow resizes it, on the CPU",
    ),
    Rung(
        "resnet_opencv_cpu", 1, sequential, Preparation("classify", "opencv"),
        changes="resnet_pil_cpu", reference="resnet_pil_cpu",
        about="OpenCV resizes instead of Pillow, averaging areas so that nothing aliases",
    ),
    Rung(
        "resnet_linear_cpu", 1, sequential, Preparation("classify", "opencv_linear"),
        changes="resnet_opencv_cpu", reference="resnet_pil_cpu",
        about="OpenCV's default interpolation: quicker, but aliases when it shrinks",
    ),
    Rung(
        "detr_pil_cpu", 1, sequential, Preparation("detect", "pil"),
        changes=None, reference="detr_pil_cpu",
        about="DETR finds objects in the frame; Pillow and torch prepare it",
    ),
    Rung(
        "detr_opencv_cpu", 1, sequential, Preparation("detect", "opencv"),
        changes="detr_pil_cpu", reference="detr_pil_cpu",
        about="OpenCV and NumPy prepare the frame instead of Pillow and torch",
    ),
)  # fmt: skip

STAGE_2 = (
    Rung(
        "resnet_cuda", 2, sequential, Preparation("classify", "opencv", device="cuda"),
        changes="resnet_opencv_cpu", reference="resnet_opencv_cpu",
        about="model and input on the GPU, nothing else", needs=("cuda",),
    ),
    Rung(
        "detr_cuda", 2, sequential, Preparation("detect", "opencv", device="cuda"),
        changes="detr_opencv_cpu", reference="detr_opencv_cpu",
        about="model and input on the GPU, nothing else", needs=("cuda",),
    ),
)  # fmt: skip

STAGE_3 = (
    Rung(
        "baseline_combined_cpu", 3, baseline_combined, Preparation("combined", "opencv"),
        changes=None, reference="baseline_combined_cpu",
        about="DETR's boxes, named one at a time by ResNet-18, as the author wrote it",
    ),
    Rung(
        "combined_cpu", 3, one_by_one, Preparation("combined", "opencv"),
        changes="baseline_combined_cpu", reference="baseline_combined_cpu",
        about="the best queries are picked in one step instead of a read for each of 100",
    ),
    Rung(
        "baseline_combined_cuda", 3, baseline_combined, Preparation("combined", "opencv", device="cuda"),
        changes="baseline_combined_cpu", reference="baseline_combined_cpu",
        about="the author's loop with its models on the GPU", needs=("cuda",),
    ),
    Rung(
        "combined_cuda", 3, one_by_one, Preparation("combined", "opencv", device="cuda"),
        changes="baseline_combined_cuda", reference="baseline_combined_cpu",
        about="boxes come back in one copy and names in another, instead of a wait for each query",
        needs=("cuda",),
    ),
)  # fmt: skip


def _int8_step(name: str, about: str, **options: Any) -> Rung:
    """One more change of how the 8-bit engine is quantised."""
    way = Preparation("combined", "bytes", engine="openvino", precision="int8",
                      options={"rest_precision": "bf16", **options})  # fmt: skip
    return Rung(
        f"cpu_engine_int8_{name}", 6, batched_crops, way, changes="cpu_engine_int8",
        reference="baseline_combined_cpu", about=about, needs=("openvino", "nncf"),
    )  # fmt: skip


STAGE_6_CPU = (
    Rung(
        "batched_cpu", 6, batched_crops, Preparation("combined", "opencv"),
        changes="combined_cpu", reference="baseline_combined_cpu",
        about="all crops of a frame in one batch",
    ),
    Rung(
        "lut_cpu", 6, batched_crops, Preparation("combined", "opencv_lut"),
        changes="batched_cpu", reference="baseline_combined_cpu",
        about="normalising is a table look-up per byte",
    ),
    Rung(
        "folded_cpu", 6, batched_crops, Preparation("combined", "opencv_lut", options=_FOLDED),
        changes="lut_cpu", reference="baseline_combined_cpu",
        about="batch norms folded into convolutions, channels last in memory",
    ),
    Rung(
        "cpu_engine_fp32", 6, batched_crops, Preparation("combined", "bytes", engine="openvino"),
        changes="folded_cpu", reference="baseline_combined_cpu",
        about="OpenVINO compiles the whole graph, normalisation included", needs=("openvino",),
    ),
    Rung(
        "cpu_engine_bf16", 6, batched_crops,
        Preparation("combined", "bytes", engine="openvino", precision="bf16"),
        changes="cpu_engine_fp32", reference="baseline_combined_cpu",
        about="bfloat16 instead of float32 inside the engine", needs=("openvino",),
    ),
    Rung(
        "cpu_engine_int8", 6, batched_crops,
        Preparation("combined", "bytes", engine="openvino", precision="int8",
                    options={"rest_precision": "bf16"}),
        changes="cpu_engine_bf16", reference="baseline_combined_cpu",
        about="8-bit convolutions and products, quantised after training",
        needs=("openvino", "nncf"),
    ),
    _int8_step(
        "mixed", "encoder, decoder and heads stay in bfloat16, where 8 bits cost accuracy",
        unquantised=("encoder", "decoder"),
    ),
    Rung(
        "tracked_bf16_cpu", 6, tracked,
        Preparation("combined", "bytes", engine="openvino", precision="bf16", options={"every": 4}),
        changes="cpu_engine_bf16", reference="baseline_combined_cpu",
        about="networks on every fourth frame of a moving picture; optical flow moves the boxes in between",
        needs=("openvino",),
    ),
)  # fmt: skip

STAGE_6_INT8 = (
    _int8_step(
        "decoder", "decoder and heads stay in bfloat16, the encoder does not", unquantised=("decoder",)
    ),
    _int8_step("frames", "128 frames instead of 32 tell the ranges of activations", calibration_frames=128),
    _int8_step(
        "smooth", "SmoothQuant moves 0.5 instead of 0.95 of the outliers into the weights", smooth_quant=0.5
    ),
    _int8_step("bias", "biases are corrected layer by layer, on what quantised layers give", exact_bias=True),
)
"""Ways to win back what 8 bits lose; each is measured for what it gains and costs by itself."""

STAGE_6_PARTS = (
    Rung(
        "preprocess_cuda", 6, one_by_one, Preparation("combined", "torch", device="cuda"),
        changes="combined_cuda", reference="baseline_combined_cpu",
        about="bytes go up, the GPU resizes and normalises them", needs=("cuda",),
    ),
    Rung(
        "pinned_cuda", 6, one_by_one, Preparation("combined", "pinned", device="cuda"),
        changes="preprocess_cuda", reference="baseline_combined_cpu",
        about="bytes go up from a ring of page-locked buffers", needs=("cuda",),
    ),
    Rung(
        "batched_cuda", 6, batched_crops, Preparation("combined", "pinned", device="cuda"),
        changes="pinned_cuda", reference="baseline_combined_cpu",
        about="all crops of a frame in one batch", needs=("cuda",),
    ),
)  # fmt: skip

_HALF = Preparation(
    "combined", "pinned", device="cuda", precision="fp16", form="whole_frame", options=_FOLDED
)
_AUTOTUNED = replace(_HALF, options={**_FOLDED, "time_convolutions": True})
_GRAPH = replace(_AUTOTUNED, engine="cuda_graph")
_PRECOMPUTED = replace(_GRAPH, options={**_GRAPH.options, "precomputed": True})
_FUSED_CONVOLUTIONS = replace(_GRAPH, options={**_PRECOMPUTED.options, "fused_convolutions": True})
_BOX_KERNELS = replace(_GRAPH, options={**_FUSED_CONVOLUTIONS.options, "box_kernels": True})
_COMPILED = replace(_GRAPH, options={**_AUTOTUNED.options, "compile": "max-autotune-no-cudagraphs"})

STAGE_6_GPU = (
    Rung(
        "slots_cuda", 6, batched_crops,
        Preparation("combined", "pinned", device="cuda", engine="cuda_graph", options={"lean": True}),
        changes="batched_cuda", reference="baseline_combined_cpu",
        about="both networks recorded as CUDA graphs; crops fill the next slot of 1, 2, 4, 8 or 16",
        needs=("cuda",),
    ),
    Rung(
        "on_device_cuda", 6, sequential,
        Preparation("combined", "pinned", device="cuda", form="whole_frame"),
        changes="batched_cuda", reference="baseline_combined_cpu",
        about="best queries, crops and names stay on the GPU; one copy back per frame",
        needs=("cuda",),
    ),
    Rung(
        "half_cuda", 6, sequential, _HALF,
        changes="on_device_cuda", reference="baseline_combined_cpu",
        about="half precision, batch norms folded, channels last", needs=("cuda",),
    ),
    Rung(
        "autotuned_cuda", 6, sequential, _AUTOTUNED,
        changes="half_cuda", reference="baseline_combined_cpu",
        about="cuDNN times its kernels for each convolution and keeps the fastest",
        needs=("cuda",),
    ),
    Rung(
        "graph_cuda", 6, sequential, _GRAPH,
        changes="autotuned_cuda", reference="baseline_combined_cpu",
        about="the whole frame recorded as one CUDA graph", needs=("cuda",),
    ),
    Rung(
        "precomputed_cuda", 6, sequential, _PRECOMPUTED,
        changes="graph_cuda", reference="baseline_combined_cpu",
        about="what no frame changes is worked out once: DETR's position terms and first self-attention",
        needs=("cuda",),
    ),
    Rung(
        "fused_convolutions_cuda", 6, sequential, _FUSED_CONVOLUTIONS,
        changes="precomputed_cuda", reference="baseline_combined_cpu",
        about="convolution, bias, residual and ReLU are one call of cuDNN", needs=("cuda",),
    ),
    Rung(
        "box_kernels_cuda", 6, sequential, _BOX_KERNELS,
        changes="fused_convolutions_cuda", reference="baseline_combined_cpu",
        about="boxes are chosen and packed by two small kernels instead of thirty operations",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "staged_cuda", 6, ring_of_stages,
        replace(_BOX_KERNELS, form="staged", options={**_BOX_KERNELS.options, "depth": 2}),
        changes="box_kernels_cuda", reference="baseline_combined_cpu",
        about="ResNet-18 names frame i on a stream of its own, beside the detector of frame i + 1",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "tensorrt_cuda", 6, sequential, replace(_HALF, engine="tensorrt", options={}),
        changes="half_cuda", reference="baseline_combined_cpu",
        about="TensorRT compiles the whole frame in half precision", needs=("cuda", "tensorrt"),
    ),
    Rung(
        "compiled_cuda", 6, sequential, _COMPILED,
        changes="graph_cuda", reference="baseline_combined_cpu",
        about="torch.compile chooses and fuses the kernels that the graph holds",
        needs=("cuda", "c++", "triton"),
    ),
    Rung(
        "ahead_cuda", 6, launched_ahead, _COMPILED,
        changes="compiled_cuda", reference="baseline_combined_cpu",
        about="the next frame is launched before the answer to this one is fetched",
        needs=("cuda", "c++", "triton"),
    ),
)  # fmt: skip

_OPENCV = FilterStep("opencv")
_ROUND_TRIP = FilterStep("cuda-global", where="round_trip")
_FOLDED_SMOOTHED = Preparation("combined", "opencv_lut", filter=_OPENCV, options=_FOLDED)
_NUMBA = replace(_FOLDED_SMOOTHED, filter=FilterStep("numba"))
_ON_DEVICE = replace(_GRAPH, filter=FilterStep("cuda-fused", where="device"))
_FUSED = replace(_GRAPH, filter=FilterStep("cuda-detr", where="input"))

STAGE_4 = (
    Rung(
        "filter_opencv_cpu", 4, filtered_batched, _FOLDED_SMOOTHED,
        changes="folded_cpu", reference="filter_opencv_cpu",
        about="each frame goes through the guided filter first, made of OpenCV calls",
    ),
    Rung(
        "filter_numba_cpu", 4, filtered_batched, _NUMBA,
        changes="filter_opencv_cpu", reference="filter_opencv_cpu",
        about="the filter is one fused pass, compiled by numba",
    ),
    Rung(
        "filter_baseline_cuda", 4, filtered_baseline,
        Preparation("combined", "opencv", device="cuda", filter=_ROUND_TRIP),
        changes="baseline_combined_cuda", reference="filter_opencv_cpu",
        about="the right filter called the author's way: to the GPU and back for each frame, memory "
        "made and freed, a wait after each launch",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "filter_device_cuda", 4, filtered_on_device, _ON_DEVICE,
        changes="graph_cuda", reference="filter_opencv_cpu",
        about="one kernel smooths the frame where it is, between its upload and the networks",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "filter_fused_cuda", 4, filtered_on_device, _FUSED,
        changes="filter_device_cuda", reference="filter_opencv_cpu",
        about="the kernel ends in the network's normalised input: filter and preprocessing in one pass",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "filter_graph_cuda", 4, sequential,
        replace(_BOX_KERNELS, filter=FilterStep("cuda-input", where="graph")),
        changes="box_kernels_cuda", reference="filter_opencv_cpu",
        about="the frame is smoothed inside the graph, by a kernel that keeps its window in registers",
        needs=("cuda", "cupy"),
    ),
)  # fmt: skip

STAGE_5 = (
    Rung(
        "streams_cpu", 5, threaded, _NUMBA,
        changes="filter_numba_cpu", reference="filter_opencv_cpu",
        about="a thread filters and prepares the next frame while the engine works on this one",
    ),
    Rung(
        "baseline_streams_cuda", 5, baseline_streams,
        Preparation("combined", "torch", device="cuda", filter=_ROUND_TRIP),
        changes="filter_baseline_cuda", reference="filter_opencv_cpu",
        about="the author's two streams: the GPU prepares a frame on one, the network reads it on the "
        "other, and nothing makes it wait",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "streams_cuda", 5, ring_of_streams,
        replace(_FUSED, form="streamed", options={**_FUSED.options, "depth": 2}),
        changes="filter_fused_cuda", reference="filter_opencv_cpu",
        about="upload, filter, networks and copy back on four streams, two frames under way",
        needs=("cuda", "cupy"),
    ),
)  # fmt: skip

STAGE_9 = (
    Rung(
        "grouped_cpu", 9, grouped, Preparation("combined", "opencv", options={"frames": 4}),
        changes="batched_cpu", reference="baseline_combined_cpu",
        about="four frames, of one stream or of several, go through the networks in one pass",
    ),
    Rung(
        "grouped_bf16_cpu", 9, grouped,
        Preparation("combined", "bytes", engine="openvino", precision="bf16", options={"frames": 4}),
        changes="cpu_engine_bf16", reference="baseline_combined_cpu",
        about="four frames in one pass of the bfloat16 engine", needs=("openvino",),
    ),
    Rung(
        "grouped_cuda", 9, grouped,
        Preparation("combined", "pinned", device="cuda", options={"frames": 4}),
        changes="batched_cuda", reference="baseline_combined_cpu",
        about="four frames in one pass on the GPU", needs=("cuda",),
    ),
    Rung(
        "grouped_graph_cuda", 9, grouped_on_device,
        replace(_BOX_KERNELS, options={**_BOX_KERNELS.options, "frames": 4}),
        changes="box_kernels_cuda", reference="baseline_combined_cpu",
        about="four frames, of one stream or of several, in one graph in half precision",
        needs=("cuda", "cupy"),
    ),
    Rung(
        "grouped_graph_8_cuda", 9, grouped_on_device,
        replace(_BOX_KERNELS, options={**_BOX_KERNELS.options, "frames": 8}),
        changes="grouped_graph_cuda", reference="baseline_combined_cpu",
        about="eight frames in one graph instead of four", needs=("cuda", "cupy"),
    ),
)  # fmt: skip

THIRD_PARTY = (
    Rung(
        "peer_onnxruntime_fp32", 6, batched_crops,
        Preparation("combined", "bytes", engine="onnxruntime"),
        changes="folded_cpu", reference="baseline_combined_cpu",
        about="ONNX Runtime runs both networks", needs=("onnxruntime", "onnxscript"),
    ),
    Rung(
        "peer_pipeline_cpu", 6, sequential, Preparation("detect", "pil", form="peer"),
        changes="detr_pil_cpu", reference="detr_pil_cpu",
        about="transformers' own pipeline() at the frame's size",
    ),
    Rung(
        "peer_shipped_cpu", 6, sequential,
        Preparation("detect", "pil", form="peer", options={"resize": 800}),
        changes=None, reference="peer_shipped_cpu",
        about="the same pipeline() as it ships, which enlarges every frame to 800 px first",
    ),
    Rung(
        "peer_compile_bf16", 6, sequential,
        Preparation("detect", "opencv", engine="compile", precision="bf16",
                    options={**_FOLDED, "lean": True, "mode": "max-autotune-no-cudagraphs"}),
        changes="detr_opencv_cpu", reference="detr_pil_cpu",
        about="torch.compile at its best: bfloat16, weights frozen, no padding mask, kernels timed",
        needs=("c++", "bf16"),
    ),
    Rung(
        "peer_openvino_bf16", 6, sequential,
        Preparation("detect", "opencv", engine="openvino", precision="bf16"),
        changes="detr_opencv_cpu", reference="detr_pil_cpu",
        about="OpenVINO as its own examples use it: the host prepares floats", needs=("openvino",),
    ),
    Rung(
        "detr_engine_fp32", 6, sequential,
        Preparation("detect", "bytes", engine="openvino"),
        changes="detr_opencv_cpu", reference="detr_pil_cpu",
        about="the detector alone in the lab's engine: bytes go in", needs=("openvino",),
    ),
    Rung(
        "detr_engine_bf16", 6, sequential,
        Preparation("detect", "bytes", engine="openvino", precision="bf16"),
        changes="peer_openvino_bf16", reference="detr_pil_cpu",
        about="the detector alone in the lab's bfloat16 engine: bytes go in", needs=("openvino",),
    ),
    Rung(
        "detr_engine_int8", 6, sequential,
        Preparation("detect", "bytes", engine="openvino", precision="int8",
                    options={"rest_precision": "bf16"}),
        changes="detr_engine_bf16", reference="detr_pil_cpu",
        about="the detector alone in the 8-bit engine", needs=("openvino", "nncf"),
    ),
    Rung(
        "detr_engine_int8_mixed", 6, sequential,
        Preparation("detect", "bytes", engine="openvino", precision="int8",
                    options={"rest_precision": "bf16", "unquantised": ("encoder", "decoder")}),
        changes="detr_engine_int8", reference="detr_pil_cpu",
        about="encoder, decoder and heads stay in bfloat16", needs=("openvino", "nncf"),
    ),
)  # fmt: skip

STAGE_7 = (
    Rung(
        "spin_cpu", 7, batched_crops,
        Preparation("combined", "opencv_lut", options={**_FOLDED, "spin": True}),
        changes="folded_cpu", reference="baseline_combined_cpu",
        about="OpenMP's threads spin until there is work, instead of going to sleep",
    ),
    Rung(
        "spin_onnxruntime", 7, batched_crops,
        Preparation("combined", "bytes", engine="onnxruntime", options={"spin": True}),
        changes="peer_onnxruntime_fp32", reference="baseline_combined_cpu",
        about="ONNX Runtime's threads spin until there is work", needs=("onnxruntime", "onnxscript"),
    ),
    Rung(
        "awake_engine_bf16", 7, awake_crops,
        Preparation("combined", "bytes", engine="openvino", precision="bf16"),
        changes="cpu_engine_bf16", reference="baseline_combined_cpu",
        about="a thread keeps one core at work between frames, so that its clock stays up",
        needs=("openvino",),
    ),
)  # fmt: skip
"""Remedies for a pipeline that naps between frames, each at a price in energy: see `bench(paced=...)`."""

MEASURED_LAST = (*THIRD_PARTY, *STAGE_7, *STAGE_6_INT8)
"""Rungs that a benchmark short of time leaves for the end."""


def about_here(rung: Rung) -> str:
    """What a rung is about, with what this machine does instead of it."""
    instead = fallback(rung.prepare)
    return rung.about if instead is None else f"{rung.about} (here {instead})"


class Ladder(tuple[Rung, ...]):
    """Rungs in order; shows itself as a table."""

    __slots__ = ()

    def table(self) -> pd.DataFrame:
        """One row per rung: stage, what it changes, and why this machine cannot run it, if so."""
        columns = ["rung", "stage", "changes", "about", "unavailable"]
        by_stage = sorted(self, key=lambda rung: rung.stage)
        rows = [
            (r.name, r.stage, r.changes or "", about_here(r), unmet_requirement(r.needs) or "")
            for r in by_stage
        ]
        return shown_table(rows, columns)

    def _repr_html_(self) -> str:
        return table_html(self.table())

    def __str__(self) -> str:
        return "\n".join(f"{rung.name:<24} {rung.about}" for rung in self)


LADDER = Ladder((
    *STAGE_1, *STAGE_2, *STAGE_3, *STAGE_6_CPU, *STAGE_6_PARTS, *STAGE_6_GPU,
    *STAGE_9, *STAGE_4, *STAGE_5, *MEASURED_LAST,
))  # fmt: skip
"""Every rung, each after the one that it changes. Filter and streams are put onto the best loop."""

OWN_RUNGS: dict[str, Rung] = {}
"""The user's own loops in this process, by name; see `own_loop`."""


def rung(name: str) -> Rung:
    """The rung of that name.

    Raises:
        UsageError: there is none; the message gives today's name of a renamed one, or the nearest.

    Example:
        >>> import labkit
        >>> labkit.rung("detr_opencv_cpu").changes
        'detr_pil_cpu'
    """
    if not isinstance(name, str):
        raise UsageError(
            f"the name of a rung is a string, e.g. 'detr_opencv_cpu', not {describe_value(name)}"
        )
    if name in OWN_RUNGS:
        return OWN_RUNGS[name]
    for candidate in LADDER:
        if candidate.name == name:
            return candidate
    if name in FORMER_NAMES:
        raise UsageError(f"the rung {name} is called {FORMER_NAMES[name]} now")
    own, _, version = name.partition("@")
    if version == "previous":
        raise UsageError(
            f"{own} has no version before this one in this session; run the cell of the older one, measure "
            "it, then change it"
        )
    import difflib

    near = difflib.get_close_matches(name, [*OWN_RUNGS, *(r.name for r in LADDER)], n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; labkit rungs lists them"
    raise UsageError(f"no rung named {name!r}{hint}")


def ladder(stage: int | None = None, device: str | None = None) -> Ladder:
    """The rungs, each after the one that it changes.

    Args:
        stage: only those of this stage (notebook).
        device: only those on "cpu" or "cuda".

    Example:
        >>> import labkit
        >>> [rung.name for rung in labkit.ladder(stage=1)][:2]
        ['resnet_pil_cpu', 'resnet_opencv_cpu']
    """
    return Ladder(r for r in LADDER if stage in (None, r.stage) and device in (None, r.prepare.device))


def select_rungs(
    rungs: Sequence[str | Rung] = (), stage: int | None = None, device: str | None = None
) -> Ladder:
    """The named rungs, or a stage's, or all of them; those of a device come with their references.

    Raises:
        UsageError: a name, stage or device that does not exist.
    """
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"a device is cpu or cuda, not {device!r}")
    found = ladder(stage, device)
    if not found and device is None:
        known = sorted({r.stage for r in LADDER})
        raise UsageError(f"stage {stage} has no rungs; stages with rungs: {', '.join(map(str, known))}")
    if rungs:
        named = [rung(each) if isinstance(each, str) else each for each in rungs]
        chosen = {each.name: each for each in named}
        return Ladder(sorted(chosen.values(), key=lambda r: LADDER.index(r) if r in LADDER else len(LADDER)))
    wanted = {r.name for r in found} | {r.reference for r in found if device is not None}
    return Ladder(r for r in LADDER if r.name in wanted)
