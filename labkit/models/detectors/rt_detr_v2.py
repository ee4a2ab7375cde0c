"""RT-DETRv2 (Lv et al., 2024): convolutions, one attention layer, and a deformable decoder.

Its 300 queries are the best-scoring places of three feature maps, chosen anew for each picture.
"""

from __future__ import annotations

from labkit.models.decode import SIGMOID
from labkit.models.detectors.detector_row import DetectorRow
from labkit.models.preprocess import InputSpec

_RAW_640 = InputSpec(exact=(640, 640), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

ROWS = (
    DetectorRow(
        name="rt_detr_v2_r18",
        about="RT-DETRv2 with a ResNet-18-D backbone, 20 M parameters",
        model="RTDetrV2ForObjectDetection",
        config="RTDetrV2Config",
        backbone=(
            "RTDetrResNetConfig",
            {
                "embedding_size": 64,
                "hidden_sizes": [64, 128, 256, 512],
                "depths": [2, 2, 2, 2],
                "layer_type": "basic",
                "out_indices": [2, 3, 4],
            },
        ),
        options={"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3},
        classes=80,
        input=_RAW_640,
        rule=SIGMOID,
        millions=20,
        processor="RTDetrImageProcessor",
        repo="PekingU/rtdetr_v2_r18vd",
        revision="5650961749fa93567c0d46fc7f43ea4f9e914107",
        bytes=80_904_640,
        sha256={"model.safetensors": "d18309d0d7ea57048138885c4c6ecfcb1e24506fc6153b94ad484f8ab62c7115"},
    ),
)
