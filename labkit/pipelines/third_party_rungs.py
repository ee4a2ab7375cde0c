"""Third-party rungs: other libraries with the same networks, and the lab's detector alone beside them.

Rows of the ladder like all others; a benchmark that is short of time measures them last.
"""

from __future__ import annotations

from labkit.core.types import Preparation, Rung
from labkit.pipelines.combined import batched_crops
from labkit.pipelines.sequential import sequential

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
                    options={"fold_batch_norm": True, "channels_last": True}),
        changes="detr_opencv_cpu", reference="detr_pil_cpu",
        about="torch.compile with frozen weights, in bfloat16", needs=("c++",),
    ),
    Rung(
        "peer_openvino_bf16", 6, sequential,
        Preparation("detect", "opencv", engine="openvino", precision="bf16"),
        changes="detr_opencv_cpu", reference="detr_pil_cpu",
        about="OpenVINO as its own examples use it: the host prepares floats", needs=("openvino",),
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
)  # fmt: skip
