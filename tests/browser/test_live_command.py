"""`labkit live`: the same view on a page of its own, opened, used and ended from the shell."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS  # noqa: E402
from browser.looking import (  # noqa: E402
    FREE_S,
    eventually,
    freed_after,
    in_order,
    keep,
    line,
    message,
    numbers_shown,
    press,
    rate,
    wait_until_running,
)  # fmt: skip

pytestmark = MARKS

LABKIT = [sys.executable, "-c", "from labkit.cli.main import main; raise SystemExit(main())"]
QUICK = ["--rung", "resnet_linear_cpu", "--model-set", "lab"]


class Sheet:
    """What the looking functions expect of a place that shows a view."""

    def __init__(self, page):
        self.page = page

    @property
    def view(self):
        return self.page.locator(".labkit-live")


@contextmanager
def shown(folder, *options):
    """`labkit live` until Ctrl-C; gives the address, the process and, afterwards, what it said."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "LABKIT_HOME": str(folder / "home"),
                   "PYTHONUNBUFFERED": "1"}  # fmt: skip
    process = subprocess.Popen(
        [*LABKIT, "live", *QUICK, *options],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith("open http://localhost:"), said or process.stderr.read()
        yield said.removeprefix("open ").strip(), process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def has_open(process, path):
    return any(file.path == str(path) for file in psutil.Process(process.pid).open_files())


def test_a_film_is_shown_used_freed_and_ended_by_ctrl_c(page, camera, tmp_path):
    complaints = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with shown(tmp_path, "--source", str(camera)) as (address, process):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        numbers = numbers_shown(sheet, 2)
        assert len(numbers) > 10 and in_order(numbers), str(numbers)
        keep(page, "command")
        sheet.view.get_by_label("Compare with").select_option("resnet_opencv_cpu")
        eventually(lambda: sheet.view.locator("canvas").first.evaluate("c => c.width") == 1280)
        eventually(lambda: "resnet_opencv_cpu" in line(sheet), 30)
        press(sheet, "Keep this picture")
        eventually(lambda: "kept as" in message(sheet))
        assert [path.suffix for path in (tmp_path / "home/live").iterdir()] == [".png"]
        freed_after(lambda: page.goto("about:blank"), lambda: not has_open(process, camera))
        page.goto(address)
        wait_until_running(sheet)
        assert has_open(process, camera)
        assert complaints == []
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=2)


def test_the_camera_of_the_browser_is_shown_too(page, tmp_path):
    with shown(tmp_path, "--source", "browser") as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        numbers = numbers_shown(sheet, 2)
        assert len(numbers) > 5 and in_order(numbers), str(numbers)
        press(sheet, "Stop")
        eventually(lambda: "stopped" in message(sheet), FREE_S)
        assert rate(sheet, "displayed") == 0.0


def test_a_source_that_is_not_there_is_said_on_the_page(page, tmp_path):
    with shown(tmp_path, "--source", "no-such-film.mp4") as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        eventually(lambda: "no file or folder" in message(sheet), 30)
        keep(page, "command-no-source")
