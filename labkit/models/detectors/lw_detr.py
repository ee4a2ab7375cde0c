"""LW-DETR (Chen et al., 2024): a plain transformer, half of it in windows, and a short deformable decoder.

RF-DETR grew out of it.
"""

from __future__ import annotations

from labkit.models.decode import SIGMOID
from labkit.models.detectors.detector_row import DetectorRow
from labkit.models.preprocess import InputSpec

ROWS = (
    DetectorRow(
        name="lw_detr_t",
        about="LW-DETR tiny, 6 layers of 192 values, 12 M parameters",
        model="LwDetrForObjectDetection",
        config="LwDetrConfig",
        backbone=(
            "LwDetrViTConfig",
            {
                "hidden_size": 192,
                "num_hidden_layers": 6,
                "image_size": 1024,
                "window_block_indices": [0, 2, 4],
                "out_indices": [2, 4, 6],
            },
        ),
        options={"projector_scale_factors": [1.0], "num_queries": 100, "decoder_n_points": 2},
        classes=91,
        input=InputSpec(exact=(640, 640)),
        rule=SIGMOID,
        millions=12.1,
        processor="DeformableDetrImageProcessor",
        repo="AnnaZhang/lwdetr_tiny_60e_coco",
        revision="4b636b514dcf623f6eafc9e1ab63b8ad5c513925",
        bytes=48_500_000,
    ),
)
