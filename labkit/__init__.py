"""A lab for real-time image classification and detection: pipelines, measured honestly."""

__version__ = "0.1.0"
