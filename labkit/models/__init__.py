"""DETR and ResNet-18: weights, preprocessing, engines and decoding."""
