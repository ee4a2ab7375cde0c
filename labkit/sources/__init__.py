"""Sources of frames: cameras, videos, images, network streams and synthetic scenes."""
