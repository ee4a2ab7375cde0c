"""Frames from cameras, videos, pictures, network streams and drawn scenes."""
