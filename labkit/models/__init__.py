"""ResNet-18 and DETR: weights, networks, engines, and what turns their outputs into detections."""
