"""What a person sees of a live view in a browser, and what a test sees of the processes behind it."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from browser.film import READ_NUMBER

ARTEFACTS = Path(__file__).parents[2] / "build" / "live"
LABKIT = [sys.executable, "-c", "from labkit.cli.main import main; raise SystemExit(main())"]
FRAMES = 300
FREE_S = 2.0  # so soon the camera is free again, whatever became of the page or the kernel
SILENCE_S = FREE_S + 0.5  # the same where only silence tells, with room for a machine that is busy
OPEN = (
    "from labkit.live.start import live\n"
    "view = live({source!r}, rung='resnet_linear_cpu', model_set='lab', threshold=0.5)\nview"
)


def keep(page, name, full=False):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(ARTEFACTS / f"{name}.png"), full_page=full)


class Sheet:
    """What the looking functions expect of a place that shows a view."""

    def __init__(self, page):
        self.page = page

    @property
    def view(self):
        return self.page.locator(".labkit-live")


@contextmanager
def shown(folder, *options, hub=True):
    """`labkit live` until Ctrl-C; gives the address, the process and, afterwards, what it said."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "LABKIT_HOME": str(folder / "home"),
                   "PYTHONUNBUFFERED": "1"}  # fmt: skip
    if not hub:  # nor anything in a cache
        nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        environment |= {**nowhere, "HF_HOME": str(folder / "hub"), "TORCH_HOME": str(folder / "torch")}
    process = subprocess.Popen(
        [*LABKIT, "live", "--no-browser", *options],
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


def running_views(lab):
    """How many live views say that they run."""
    return sum(psutil.pid_exists(pid) for pid in note_pids(lab))


def eventually(condition, timeout_s=20.0, message=""):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(message() if callable(message) else message or "it did not come to that")


def freed_after(act, free, limit_s=FREE_S):
    """Does `act`, and waits until `free()`; in how many seconds, which are printed."""
    begun = time.monotonic()
    act()
    eventually(free, limit_s, f"the camera is not free within {limit_s:g} s")
    took_s = time.monotonic() - begun
    print(f"free after {took_s:.2f} s")
    return took_s


def holders(lab, path):
    """Processes of kernels that have this file open."""
    found = []
    for pid in lab.kernel_pids():
        with suppress(psutil.Error):
            found += [pid for file in psutil.Process(pid).open_files() if file.path == str(path)]
    return found


def line(desk):
    return " ".join(desk.view.locator(".labkit-figures").inner_text().split())


def message(desk):
    return desk.view.locator(".labkit-message").inner_text()


def weights(desk):
    return desk.view.locator(".labkit-weights").inner_text()


def settings(desk):
    """The settings that the kernel has, read from outside."""
    return desk.lab.ask_kernel(desk.name, "view.view.player.settings.describe()")


def rate(desk, name):
    """Of "offered", "captured", "inferred" (by the first rung) or "displayed" in the figures."""
    found = re.search(rf"{name}(?: by \S+)? ([0-9.]+)", line(desk))
    return float(found.group(1)) if found else 0.0


def wait_until_running(desk, timeout_s=60):
    desk.view.wait_for(timeout=30_000)
    runs = lambda: rate(desk, "inferred") > 0 and rate(desk, "displayed") > 0  # noqa: E731
    eventually(runs, timeout_s, lambda: f"{message(desk)}; {line(desk)}")


def press(desk, name):
    desk.view.get_by_role("button", name=name).click()


def numbers_shown(desk, seconds, wanted=0):
    """What the canvas spells, whenever it changes; longer than that on a machine that is too slow."""
    canvas = desk.view.locator("canvas").first.element_handle()
    seen, end = [], time.monotonic() + seconds
    while (now := time.monotonic()) < end or (len(seen) < wanted and now < end + 30):
        number = canvas.evaluate(READ_NUMBER)
        if number and (not seen or seen[-1] != number):
            seen.append(number)
    return seen


def in_order(numbers):
    """Whether each number is a step ahead of the one before, on a film that runs in a circle."""
    return all((b - a) % FRAMES < FRAMES / 2 for a, b in itertools.pairwise(numbers))


def hide(page, hidden):
    """As the browser does for a tab behind another one."""
    page.evaluate(
        """(hidden) => {
          const state = hidden ? "hidden" : "visible";
          Object.defineProperty(document, "visibilityState", {configurable: true, get: () => state});
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def new_page(browser):
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss())
    yield page
    context.close()


def note_pids(lab):
    """Processes that say that they show a live view."""
    return [json.loads(p.read_text())["pid"] for p in (lab.folder / "cache/labkit/busy").glob("*.json")]
