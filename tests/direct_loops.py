"""The origin's combined loop in torch, transformers and OpenCV alone: a measure of the lab's own overhead.

labkit compare baseline_combined_cpu tests/direct_loops.py:direct
"""

import cv2
import numpy as np
import torch

import labkit

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
