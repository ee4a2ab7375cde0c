"""One JupyterLab, one Chromium and one kernel for all tests in a browser."""

import os
import re
from pathlib import Path

import pytest

from browser.chromium import launch
from browser.film import numbered_picture, write_mjpeg
from browser.lab import Desk, JupyterLab
from browser.looking import ARTEFACTS, FRAMES, new_page


@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    # The notes of running views go to a folder of this test, where it can see them come and go.
    server = JupyterLab(folder, XDG_CACHE_HOME=str(folder / "cache"), LABKIT_HOME=str(folder / "kept"),
                        PYTHONPATH=os.pathsep.join(map(str, Path(__file__).parents[1:3])))  # fmt: skip
    yield server
    server.close()


@pytest.fixture(scope="package")
def film(tmp_path_factory):
    return write_mjpeg(tmp_path_factory.mktemp("film") / "numbers.mjpeg", FRAMES)


@pytest.fixture(scope="package")
def driver():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def browser(driver, film):
    """Chromium with a camera that shows the numbered film, and permission to use it."""
    chromium = launch(driver, film=film)
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser):
    yield from new_page(browser)


@pytest.fixture
def desk(lab, page, request):
    """Opens a notebook with the given cells; its kernel goes on to the next test, tidied."""
    name = f"{re.sub(r'[^a-z0-9]+', '-', request.node.name)}.ipynb"

    def open_it(*cells, page=page, **options):
        lab.lend_kernel(name)
        return Desk(lab, page, lab.notebook(name, *cells), **options)

    yield open_it
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    if not page.is_closed():
        page.screenshot(path=str(ARTEFACTS / f"{request.node.name}-end.png"))
        page.context.close()  # before the kernel forgets its views, or the page would ask for them
    lab.set_kernel_aside(name)


@pytest.fixture(scope="package")
def camera(lab):
    """A film that a kernel reads as it would read a camera: whoever has it open owns it."""
    import cv2

    path = lab.folder / "numbers.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for number in range(1, FRAMES + 1):
        writer.write(numbered_picture(number))
    writer.release()
    return path
