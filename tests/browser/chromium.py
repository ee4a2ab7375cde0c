"""Chromium as these tests start it."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
"""Of every test in a browser."""
ELSEWHERE = "lab.example"
"""A name of this machine that the browser takes for another one: its pages are not secure."""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]  # fmt: skip
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def launch(driver, *flags, film=None):
    """A headless browser; with a film, its camera shows that and asks nobody."""
    seen = [] if film is None else [*CAMERA, f"--use-file-for-fake-video-capture={film}"]
    return driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *seen, *flags])
