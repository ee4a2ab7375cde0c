"""`labkit live`: the same view on a page of its own, opened, used and ended from the shell."""

import re
import signal
import urllib.error
import urllib.request

import pytest
from PIL import Image

from labkit.models.packaged_weights import PACKAGED, packaged_file

psutil = pytest.importorskip("psutil")
pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS  # noqa: E402
from browser.looking import (  # noqa: E402
    FREE_S,
    Sheet,
    eventually,
    freed_after,
    in_order,
    keep,
    line,
    message,
    numbers_shown,
    press,
    rate,
    shown,
    wait_until_running,
    weights,
)  # fmt: skip

pytestmark = MARKS

QUICK = ["--rung", "resnet_linear_cpu", "--model-set", "lab"]


def has_open(process, path):
    return any(file.path == str(path) for file in psutil.Process(process.pid).open_files())


def test_a_film_is_shown_used_freed_and_ended_by_ctrl_c(page, camera, tmp_path):
    complaints = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with shown(tmp_path, *QUICK, "--source", str(camera)) as (address, process):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        numbers = numbers_shown(sheet, 2, 11)
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
    with shown(tmp_path, *QUICK, "--source", "browser") as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        numbers = numbers_shown(sheet, 2, 6)
        assert len(numbers) > 5 and in_order(numbers), str(numbers)
        press(sheet, "Stop")
        eventually(lambda: "stopped" in message(sheet), FREE_S)
        assert rate(sheet, "displayed") == 0.0


def test_a_source_that_is_not_there_is_said_on_the_page(page, tmp_path):
    with shown(tmp_path, *QUICK, "--source", "no-such-film.mp4") as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        eventually(lambda: "no file or folder" in message(sheet), 30)
        keep(page, "command-no-source")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_page_holds_everything(browser, tmp_path, theme):
    context = browser.new_context(viewport={"width": 320, "height": 900}, color_scheme=theme)
    page = context.new_page()
    with shown(tmp_path, *QUICK, "--source", "scenes", "--size", "320x240") as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        sheet.view.get_by_label("Filter", exact=True).select_option("guided")
        sheet.view.get_by_label("Source", exact=True).select_option(label="file or address …")
        sheet.view.locator("summary").last.click()
        keep(page, f"narrow-{theme}", full=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        wide = page.evaluate(
            "[...document.querySelectorAll('.labkit-live *')].filter((each) => "
            "each.getBoundingClientRect().right > 320 && each.offsetParent).map((each) => each.className)"
        )
        assert wide == []
    context.close()


@pytest.mark.skipif(packaged_file() is None, reason="needs the extra offline")
@pytest.mark.parametrize("words", [(), ("--classifier", PACKAGED)], ids=["default", "asked"])
def test_photographs_have_true_names_where_no_hub_can_be_reached(page, tmp_path, words):
    skimage_data = pytest.importorskip("skimage.data")
    Image.fromarray(skimage_data.chelsea()).save(tmp_path / "chelsea.png")
    with shown(tmp_path, *words, "--source", str(tmp_path / "chelsea.png"), hub=False) as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet, 120)  # a hub that does not answer takes seconds
        eventually(lambda: f"{PACKAGED}: pretrained weights" in weights(sheet))
        sheet.view.get_by_label("Threshold").focus()
        page.keyboard.press("Home")
        eventually(lambda: re.search("tabby|tiger cat|Egyptian cat", found(sheet)), 60, lambda: found(sheet))
        keep(page, f"names-{len(words)}")


def found(sheet):
    return sheet.view.locator(".labkit-found").inner_text()


def test_another_detector_is_shown_and_boxes_of_random_weights_have_no_names(page, tmp_path):
    words = ("--detector", "d_fine_s", "--rung", "combined_cpu", "--objects", "2", "--threshold", "0")
    with shown(tmp_path, *words, "--source", "photos", hub=False) as (address, _):
        page.goto(address)
        sheet = Sheet(page)
        wait_until_running(sheet)
        eventually(lambda: "d_fine_s + resnet18: random weights" in weights(sheet))
        eventually(lambda: "object" in found(sheet), 30, lambda: found(sheet))
        assert "class" not in found(sheet)
        keep(page, "d-fine")
