"""The camera of the browser as a source, and what is said where it gives nothing."""

import re
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import ELSEWHERE, MARKS, launch
from browser.film import READ_NUMBER
from browser.looking import (
    FRAMES,
    OPEN,
    eventually,
    hide,
    in_order,
    keep,
    line,
    message,
    new_page,
    numbers_shown,
    press,
    rate,
    wait_until_running,
)

pytestmark = MARKS


WATCH = """
const ask = MediaDevices.prototype.getUserMedia;
window.asked = [];
MediaDevices.prototype.getUserMedia = async function (wanted) {
  window.asked.push(wanted.video);
  const stream = await ask.call(this, wanted);
  window.camera = Object.assign(document.createElement("video"), {muted: true, srcObject: stream});
  await window.camera.play();
  return stream;
};
window.flying = []; // when each was sent; one that nobody confirms within a second is given up
window.mostFlying = 0;
const text = (data) => new TextDecoder().decode(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  if (typeof data !== "string" && /"type": ?"picture"/.test(text(data))) {
    const now = performance.now();
    window.flying.push(now);
    window.mostFlying = Math.max(window.mostFlying, window.flying.filter((sent) => now - sent < 500).length);
  }
  return send.call(this, data);
};
window.WebSocket = class extends WebSocket {
  constructor(...rest) {
    super(...rest);
    this.addEventListener("message", ({ data }) => {
      if (typeof data !== "string" && /"type": ?"taken"/.test(text(data))) window.flying.shift();
    });
  }
};
"""


NUMBERS = f"""
(shown) => {{
  const read = {READ_NUMBER.strip()};
  const {{videoWidth: width, videoHeight: height}} = window.camera;
  const canvas = Object.assign(document.createElement("canvas"), {{width, height}});
  canvas.getContext("2d").drawImage(window.camera, 0, 0);
  return [read(canvas), read(shown), performance.now()];
}}
"""


def ages(sheet, looks=40):
    """How far the page's picture is behind its camera, in ms: by the numbers in both, and as it is told."""
    shown = sheet.view.locator("canvas").first.element_handle()
    seen, told = [], []
    for _ in range(looks):
        seen.append(shown.evaluate(NUMBERS))
        told.append(float(re.search(r"displayed [0-9.]+ (\d+) ms", line(sheet)).group(1)))
        time.sleep(0.04)
    steps = sum((b[0] - a[0]) % FRAMES for a, b in pairwise(seen))
    camera_fps = 1e3 * steps / (seen[-1][2] - seen[0][2])
    behind = median((camera - number) % FRAMES for camera, number, _ in seen)
    return 1e3 * behind / camera_fps, median(told)


def agree(behind_ms, told_ms):
    return 0 < told_ms < 2000 and abs(behind_ms - told_ms) < 200


def test_the_browsers_camera_arrives_in_order_and_soon(desk, page, lab):
    page.add_init_script(WATCH)
    sheet = desk(OPEN.format(source="browser"))
    sheet.run_cell()
    wait_until_running(sheet)
    numbers = numbers_shown(sheet, 4, 11)
    assert len(numbers) > 10
    assert in_order(numbers), str(numbers)
    # The figure itself is measured on a quiet machine.
    eventually(lambda: agree(*ages(sheet)), 60, "the age that is told is not that of the pixels")
    cameras = sheet.view.get_by_label("Camera", exact=True)
    eventually(lambda: cameras.locator("option").count() >= 2)
    keep(page, "browser-camera")
    assert 1 <= page.evaluate("window.mostFlying") <= 2
    chosen = cameras.locator("option").nth(1).get_attribute("value")
    cameras.select_option(index=1)
    eventually(lambda: page.evaluate("window.asked.at(-1).deviceId?.exact") == chosen)
    wait_until_running(sheet)
    assert page.evaluate("window.asked.at(-1).width.ideal") == 640
    sheet.view.get_by_label("Size").select_option("320x240")
    eventually(lambda: page.evaluate("window.asked.at(-1).width.ideal") == 320)
    eventually(lambda: sheet.view.locator("canvas").first.evaluate("c => c.width") == 320)
    wait_until_running(sheet)

    hide(page, True)
    eventually(
        lambda: rate(sheet, "displayed") == 0.0 and rate(sheet, "captured") > 0, 30, lambda: line(sheet)
    )
    hide(page, False)
    press(sheet, "Stop")
    eventually(lambda: "stopped" in message(sheet))
    frozen = numbers_shown(sheet, 0.5)
    assert len(frozen) <= 1
    press(sheet, "Start")
    wait_until_running(sheet)


def test_a_page_that_is_not_secure_says_how_to_make_it_so(desk, page):
    sheet = desk(OPEN.format(source="browser"), host=ELSEWHERE)
    assert page.evaluate("window.isSecureContext") is False
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: "secure pages only" in message(sheet), 30, lambda: message(sheet))
    assert "https" in message(sheet)
    keep(page, "camera-insecure")


TROUBLES = {"NotReadableError": "in use by another program", "ended": "unplugged"}


@pytest.mark.parametrize("name", TROUBLES)
def test_troubles_of_the_browsers_camera_have_sentences(desk, page, name):
    page.add_init_script(
        {
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
    pages.close()
    chromium.close()
