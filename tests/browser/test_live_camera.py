"""The camera of the browser as a source, and what is said where it gives nothing."""

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import ELSEWHERE, MARKS, launch
from browser.looking import (
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
MediaDevices.prototype.getUserMedia = function (wanted) {
  window.asked.push(wanted.video);
  return ask.call(this, wanted);
};
window.flying = 0;
window.mostFlying = 0;
const text = (data) => new TextDecoder().decode(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  if (typeof data !== "string" && /"type": ?"picture"/.test(text(data))) {
    window.mostFlying = Math.max(window.mostFlying, ++window.flying);
  }
  return send.call(this, data);
};
window.WebSocket = class extends WebSocket {
  constructor(...rest) {
    super(...rest);
    this.addEventListener("message", ({ data }) => {
      if (typeof data !== "string" && /"type": ?"taken"/.test(text(data))) window.flying -= 1;
    });
  }
};
"""


def test_the_browsers_camera_arrives_in_order_and_soon(desk, page, lab):
    page.add_init_script(WATCH)
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
