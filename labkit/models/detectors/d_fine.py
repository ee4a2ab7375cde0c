"""D-FINE (Peng et al., 2024): RT-DETR whose boxes are refined as distributions of their edges."""

from __future__ import annotations

from labkit.models.decode import SIGMOID
from labkit.models.detectors.detector_row import DetectorRow
from labkit.models.preprocess import InputSpec

ROWS = (
    DetectorRow(
        name="d_fine_s",
        about="D-FINE small with an HGNetV2-B0 backbone, 10 M parameters",
        model="DFineForObjectDetection",
        config="DFineConfig",
        backbone=(
            "HGNetV2Config",
            {
                "hidden_sizes": [128, 256, 512, 1024],
                "stem_channels": [3, 16, 16],
                "stage_in_channels": [16, 64, 256, 512],
                "stage_mid_channels": [16, 32, 64, 128],
                "stage_out_channels": [64, 256, 512, 1024],
                "stage_num_blocks": [1, 1, 2, 1],
                "stage_numb_of_layers": [3, 3, 3, 3],
                "use_learnable_affine_block": True,
                "out_indices": [2, 3, 4],
            },
        ),
        options={
            "encoder_in_channels": [256, 512, 1024],
            "hidden_expansion": 0.5,
            "depth_mult": 0.34,
            "decoder_layers": 3,
            "decoder_n_points": [3, 6, 3],
        },
        classes=80,
        input=InputSpec(exact=(640, 640), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        rule=SIGMOID,
        millions=10,
        processor="RTDetrImageProcessor",
        repo="ustc-community/dfine-small-coco",
        revision="f79e65b5fbb33ceb9d3ebba042955d7410c608f8",
        bytes=41_497_620,
        sha256={"model.safetensors": "a144baff3a27bfd538fe37b11fa8d4fca5744b8c054b5301e7c699a1379cd18f"},
    ),
)
