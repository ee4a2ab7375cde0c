"""RF-DETR (Robinson et al., 2025): a windowed DINOv2 transformer and a short deformable decoder."""

from __future__ import annotations

from labkit.models.decode import SIGMOID
from labkit.models.detectors.detector_row import DetectorRow
from labkit.models.preprocess import InputSpec

ROWS = (
    DetectorRow(
        name="rf_detr_n",
        about="RF-DETR nano at 384x384, 30 M parameters",
        model="RfDetrForObjectDetection",
        config="RfDetrConfig",
        backbone=(
            "RfDetrDinov2Config",
            {
                "hidden_size": 384,
                "num_attention_heads": 6,
                "image_size": 384,
                "patch_size": 16,
                "num_windows": 2,
                "out_features": ["stage3", "stage6", "stage9", "stage12"],
            },
        ),
        options={"decoder_layers": 2, "decoder_n_points": 2},
        classes=91,
        input=InputSpec(exact=(384, 384)),
        rule=SIGMOID,
        millions=30.5,
        processor="RfDetrImageProcessor",
        repo="Roboflow/rf-detr-nano",
        revision="9f201577d9415f0378084748d27e68586e6b3600",
        bytes=122_000_000,
    ),
)
