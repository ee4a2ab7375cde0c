"""The live view in real JupyterLab, in headless Chromium, used as a person would."""

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

psutil = pytest.importorskip("psutil")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import CHROMIUM, launch  # noqa: E402
from browser.film import READ_NUMBER, numbered_picture, write_mjpeg  # noqa: E402
from browser.lab import Desk, JupyterLab  # noqa: E402

ARTEFACTS = Path(__file__).parents[1] / "build" / "live"
FRAMES = 300

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]

OPEN = (
    "from labkit.live import live\nview = live({source!r}, rung='resnet_linear_cpu', model_set='lab')\nview"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    # The notes of running views go to a folder of this test, where it can see them come and go.
    server = JupyterLab(folder, XDG_CACHE_HOME=str(folder / "cache"), LABKIT_HOME=str(folder / "kept"),
                        PYTHONPATH=str(Path(__file__).parent))  # fmt: skip
    yield server
    server.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_mjpeg(tmp_path_factory.mktemp("film") / "numbers.mjpeg", FRAMES)


@pytest.fixture(scope="module")
def driver():
    with playwright.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(driver, film):
    """Chromium with a camera that shows the numbered film, and permission to use it."""
    chromium = launch(driver, film=film)
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser):
    yield from new_page(browser)


def new_page(browser):
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss())
    yield page
    context.close()


@pytest.fixture
def desk(lab, page, request):
    """Opens a notebook with the given cells; its kernel is shut down afterwards."""

    def open_it(*cells, page=page):
        name = f"{re.sub(r'[^a-z0-9]+', '-', request.node.name)}.ipynb"
        return Desk(lab, page, lab.notebook(name, *cells))

    yield open_it
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(ARTEFACTS / f"{request.node.name}-end.png"))
    for session in lab.api("sessions"):
        lab.api(f"sessions/{session['id']}", "DELETE")


def keep(page, name):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(ARTEFACTS / f"{name}.png"))


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


def line(desk):
    return desk.view.locator(".labkit-line").inner_text()


def message(desk):
    return desk.view.locator(".labkit-message").inner_text()


def rate(desk, name):
    found = re.search(rf"([0-9.]+) {name}", line(desk))
    return float(found.group(1)) if found else 0.0


def wait_until_running(desk):
    desk.view.wait_for(timeout=30_000)
    eventually(lambda: rate(desk, "inferred") > 0 and rate(desk, "displayed") > 0, 60, lambda: message(desk))


def press(desk, name):
    desk.view.get_by_role("button", name=name).click()


def numbers_shown(desk, seconds):
    """What the canvas spells, whenever it changes."""
    canvas = desk.view.locator("canvas").first.element_handle()
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        number = canvas.evaluate(READ_NUMBER)
        if number and (not seen or seen[-1] != number):
            seen.append(number)
    return seen


def in_order(numbers):
    """Whether each number is a step ahead of the one before, on a film that runs in a circle."""
    return all((b - a) % FRAMES < FRAMES / 2 for a, b in itertools.pairwise(numbers))


# A source of the machine that runs the kernel.


def test_one_cell_shows_the_view_and_the_kernel_stays_free(desk, lab, page):
    sheet = desk(OPEN.format(source="photos"), "6 * 7")
    sheet.run_cell(0)
    wait_until_running(sheet)
    keep(page, "running")
    sheet.run_cell(1)
    eventually(lambda: "42" in sheet.text_of(1))
    assert running_views(lab) == 1
    assert "scenes alone" in sheet.view.locator(".labkit-weights").inner_text()  # which weights, and what for
    press(sheet, "Stop")
    eventually(lambda: "stopped" in message(sheet))
    assert running_views(lab) == 0
    keep(page, "stopped")
    page.keyboard.press("Control+s")
    stored = eventually(lambda: "42" in (text := (lab.folder / sheet.name).read_text()) and text)
    assert "image/jpeg" not in stored and "/9j/" not in stored  # no frame lies in the notebook
    assert len(stored) < 20_000
    press(sheet, "Start")
    wait_until_running(sheet)


def test_frames_come_in_order_and_the_controls_work(desk, lab, page):
    import cv2

    writer = cv2.VideoWriter(str(lab.folder / "numbers.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for number in range(1, FRAMES + 1):
        writer.write(numbered_picture(number))
    writer.release()
    sheet = desk(OPEN.format(source="numbers.avi"))
    sheet.run_cell()
    wait_until_running(sheet)
    numbers = numbers_shown(sheet, 3)
    assert len(numbers) > 15
    assert in_order(numbers), str(numbers)

    view = sheet.view
    view.get_by_label("Rung", exact=True).select_option("resnet_opencv_cpu")
    eventually(lambda: "resnet_opencv_cpu" in view.locator(".labkit-captions").inner_text())
    view.get_by_label("Compare with").select_option("resnet_pil_cpu")
    canvas = view.locator("canvas").first
    eventually(lambda: canvas.evaluate("c => c.width") == 1280)
    eventually(lambda: "resnet_pil_cpu" in line(sheet), 30)
    keep(page, "compare")
    view.get_by_label("Compare with").select_option("")
    eventually(lambda: canvas.evaluate("c => c.width") == 640)

    threshold = view.get_by_label("Threshold")
    threshold.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    eventually(lambda: view.locator("output").first.inner_text() == "0.01")
    eventually(lambda: "nothing found" not in view.locator(".labkit-found").inner_text())
    page.keyboard.press("End")
    eventually(lambda: "nothing found" in view.locator(".labkit-found").inner_text())

    view.get_by_label("Filter", exact=True).check()
    eventually(lambda: " filter " in f" {view.locator('.labkit-legend').inner_text()} ", 60)
    keep(page, "filter")
    view.get_by_label("Filter", exact=True).uncheck()

    press(sheet, "Keep this picture")
    eventually(lambda: "kept as" in message(sheet))
    press(sheet, "Record")
    time.sleep(1)
    press(sheet, "End recording")
    eventually(lambda: "recorded to" in message(sheet))
    kept = sorted(path.suffix for path in (lab.folder / "kept/live").iterdir())
    assert kept == [".mp4", ".png"]

    view.get_by_label("Size").select_option("320x240")
    eventually(lambda: canvas.evaluate("c => c.width") == 320)
    wait_until_running(sheet)


def test_a_hidden_page_gets_no_pictures_and_detection_goes_on(desk, page):
    sheet = desk(OPEN.format(source="photos"))
    sheet.run_cell()
    wait_until_running(sheet)
    hide(page, True)
    eventually(lambda: rate(sheet, "displayed") == 0.0)
    eventually(lambda: rate(sheet, "inferred") > 0)
    keep(page, "hidden")
    hide(page, False)
    eventually(lambda: rate(sheet, "displayed") > 0)


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


def test_two_places_show_one_view_and_running_again_replaces_it(desk, lab, page):
    sheet = desk(OPEN.format(source="photos"), "view")
    sheet.run_cell(0)
    wait_until_running(sheet)
    sheet.run_cell(1)
    eventually(lambda: page.locator(".labkit-live").count() == 2)
    eventually(lambda: not any(canvas.evaluate(BLANK) for canvas in canvases(page)))
    keep(page, "two-places")
    assert running_views(lab) == 1
    sheet.run_cell(0)
    eventually(
        lambda: page.locator(".labkit-live").count() == 1, message="the old view is taken off the page"
    )
    wait_until_running(sheet)
    assert running_views(lab) == 1


def canvases(page):
    return [page.locator(".labkit-live").nth(i).locator("canvas").first for i in range(2)]


BLANK = """
(canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.every((value, i) => i % 4 === 3 || value === 0);
}
"""


def test_the_camera_is_free_after_interrupt_reload_restart_and_closing(desk, lab, page):
    sheet = desk(OPEN.format(source="photos"))
    sheet.run_cell()
    wait_until_running(sheet)
    kernel = lab.api("kernels")[0]["id"]
    lab.api(f"kernels/{kernel}/interrupt", "POST")
    eventually(lambda: running_views(lab) == 0, 2.5, "an interrupt does not free the camera")
    eventually(lambda: "interrupt" in message(sheet))
    press(sheet, "Start")
    wait_until_running(sheet)

    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Control+s")
    eventually(lambda: "widget-view" in (lab.folder / sheet.name).read_text())
    page.reload()
    sheet.wait_until_ready()
    wait_until_running(sheet)  # the page comes back, and so does the view
    keep(page, "reloaded")

    old = note_pids(lab)
    sheet.restart_kernel()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in old), 10)
    sheet.wait_until_ready()
    sheet.run_cell()
    wait_until_running(sheet)
    page.locator("#jp-main-dock-panel .lm-TabBar-tabCloseIcon").last.click()
    page.locator("dialog.jp-Dialog button", has_text="Discard").click()
    keep(page, "closed-notebook")
    eventually(lambda: running_views(lab) == 0, 4, "a closed notebook does not free the camera")


def test_the_camera_is_free_when_the_tab_is_closed(desk, lab, browser, page):
    sheet = desk(OPEN.format(source="photos"))
    sheet.run_cell()
    wait_until_running(sheet)
    page.goto("about:blank")
    eventually(lambda: running_views(lab) == 0, 4, "a closed tab does not free the camera")


def note_pids(lab):
    """Processes that say that they show a live view."""
    return [json.loads(p.read_text())["pid"] for p in (lab.folder / "cache/labkit/busy").glob("*.json")]


def test_hostile_names_are_shown_and_not_run(desk, page):
    evil = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>'
    cell = f"""
from labkit.live.widget import LiveWidget
from labkit.live.inference import Ready
from live_fakes import boxes, player_of, rung_of, ticking
from labkit.live.view import View
evil = {evil!r}
def schedule(frames, net):
    for frame in frames:
        yield frame, boxes(frame.size, evil)
prepare = lambda knobs, report: Ready((rung_of(evil, schedule),), (None,), (evil,))
player = player_of(rung=evil, prepare=prepare)
widget = LiveWidget(lambda send: View(player, send, shown_source=evil))
widget.start()
widget"""
    sheet = desk(cell)
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: evil in sheet.view.locator(".labkit-found").inner_text())
    for part in (".labkit-weights", ".labkit-captions", ".labkit-message", ".labkit-line"):
        assert part == ".labkit-line" or evil in sheet.view.locator(part).inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".labkit-live img, .labkit-live script").count() == 0
    keep(page, "hostile-names")


@pytest.mark.parametrize("source", ["photos", "scenes"])
def test_a_picture_for_the_documentation(desk, page, source):
    """Kept as build/live/view-*.png; the README's picture is a copy."""
    needed = pytest.importorskip("openvino", reason="the pictured rung needs OpenVINO")
    assert needed
    sheet = desk(f"from labkit.live import live\nlive({source!r}, 'cpu_engine_bf16', model_set='lab')")
    sheet.run_cell()
    wait_until_running(sheet)
    eventually(lambda: "doing" not in message(sheet) and "…" not in message(sheet))
    time.sleep(3)  # for the moving plot to fill
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    sheet.view.screenshot(path=str(ARTEFACTS / f"view-{source}.png"))


# The camera of the browser.


def test_the_browsers_camera_arrives_in_order_and_soon(desk, page, lab):
    sheet = desk(OPEN.format(source="browser"))
    sheet.run_cell()
    wait_until_running(sheet)
    numbers = numbers_shown(sheet, 4)
    assert len(numbers) > 10
    assert in_order(numbers), str(numbers)
    age_ms = float(re.search(r"picture (\d+) ms old", line(sheet)).group(1))
    assert 0 < age_ms < 2000  # the figure itself is measured on a quiet machine
    cameras = sheet.view.get_by_label("Camera", exact=True)
    eventually(lambda: cameras.locator("option").count() >= 2)
    keep(page, "browser-camera")
    cameras.select_option(index=1)
    time.sleep(0.5)
    eventually(lambda: rate(sheet, "displayed") > 0)

    hide(page, True)
    eventually(lambda: rate(sheet, "displayed") == 0.0)
    assert rate(sheet, "captured") > 0
    hide(page, False)
    press(sheet, "Stop")
    eventually(lambda: "stopped" in message(sheet))
    frozen = numbers_shown(sheet, 0.5)
    assert len(frozen) <= 1
    press(sheet, "Start")
    wait_until_running(sheet)


TROUBLES = {
    "NotReadableError": "in use by another program",
    "insecure": "secure pages only",
    "ended": "unplugged",
}


@pytest.mark.parametrize("name", TROUBLES)
def test_troubles_of_the_browsers_camera_have_sentences(desk, page, name):
    page.add_init_script(
        {
            "insecure": "Object.defineProperty(navigator, 'mediaDevices', {get: () => undefined})",
            "ended": """
              const ask = MediaDevices.prototype.getUserMedia;
              MediaDevices.prototype.getUserMedia = async function (wanted) {
                const stream = await ask.call(this, wanted);
                window.unplug = () => stream.getVideoTracks()[0].dispatchEvent(new Event("ended"));
                return stream;
              };""",
        }.get(
            name,
            f"MediaDevices.prototype.getUserMedia = () => Promise.reject(new DOMException('no', '{name}'))",
        )
    )
    sheet = desk(OPEN.format(source="browser"))
    sheet.run_cell()
    if name == "ended":
        wait_until_running(sheet)
        page.evaluate("window.unplug()")
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: TROUBLES[name] in message(sheet), 30, lambda: message(sheet))
    keep(page, f"camera-{name}")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [(["--use-fake-device-for-media-stream"], "was not allowed"), ([], "finds no camera")],
    ids=["denied", "none"],
)
def test_permission_denied_and_no_camera(desk, driver, flags, sentence, request):
    if sentence == "finds no camera" and list(Path("/dev").glob("video*")):
        pytest.skip("this machine has a camera")
    if not flags:
        flags = ["--use-fake-ui-for-media-stream"]
    chromium = launch(driver, *flags)
    pages = new_page(chromium)
    page = next(pages)
    sheet = desk(OPEN.format(source="browser"), page=page)
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: sentence in message(sheet), 30, lambda: message(sheet))
    keep(page, f"camera-{request.node.callspec.id}")
    chromium.close()


# Front ends that lack something.


def test_where_the_javascript_cannot_be_loaded_plain_pictures_come(tmp_path, browser):
    config = tmp_path / "home/config/labconfig"
    server_folder = tmp_path
    pages = new_page(browser)
    page = next(pages)
    lab = JupyterLab(server_folder, page_config={"disabledExtensions": {"anywidget": True}},
                     XDG_CACHE_HOME=str(tmp_path / "cache"))  # fmt: skip
    try:
        assert config.is_dir()
        sheet = Desk(lab, page, lab.notebook("plain.ipynb", OPEN.format(source="photos")))
        sheet.run_cell()
        image = page.locator(".jp-OutputArea img.widget-image")
        image.wait_for(timeout=60_000)
        first = image.get_attribute("src")
        eventually(lambda: image.get_attribute("src") != first)
        keep(page, "without-javascript")
        assert np.prod(list(image.bounding_box().values())) > 0
    finally:
        pages.close()
        lab.close()
