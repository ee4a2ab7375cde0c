"""The live view in real JupyterLab, in headless Chromium, used as a person would."""

import base64
import json
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS
from browser.lab import Desk, JupyterLab
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
    running_views,
    settings,
    wait_until_running,
    weights,
)

pytestmark = MARKS


def test_one_cell_shows_the_view_and_the_kernel_stays_free(desk, lab, page):
    sheet = desk(OPEN.format(source="photos"), "6 * 7")
    sheet.run_cell(0)
    wait_until_running(sheet)
    keep(page, "running")
    sheet.run_cell(1)
    eventually(lambda: "42" in sheet.text_of(1))
    assert running_views(lab) == 1
    assert "scenes alone" in weights(sheet)  # which weights, and what for
    assert "photos" in message(sheet)
    assert all(
        part in line(sheet) for part in ("offered", "captured", "inferred", "displayed", "passed over")
    )
    assert "infer" in sheet.view.locator(".labkit-legend").inner_text()
    press(sheet, "Stop")
    eventually(lambda: "stopped" in message(sheet))
    assert running_views(lab) == 0
    keep(page, "stopped")
    page.keyboard.press("Control+s")
    stored = eventually(lambda: "42" in (text := (lab.folder / sheet.name).read_text()) and text)
    assert "image/jpeg" not in stored and "/9j/" not in stored  # no frame lies in the notebook
    assert "widget-view" not in stored  # which would not be found when it is opened again
    assert "A live view of photos was shown here" in stored
    assert len(stored) < 20_000
    assert '"state"' not in stored  # nor the widget's own state
    press(sheet, "Start")
    wait_until_running(sheet)


def test_frames_come_in_order_and_the_controls_work(desk, lab, page, camera):
    sheet = desk(OPEN.format(source=camera.name))
    sheet.run_cell()
    wait_until_running(sheet)
    numbers = numbers_shown(sheet, 3, 16)
    assert len(numbers) > 15
    assert in_order(numbers), str(numbers)

    view = sheet.view
    view.get_by_label("Rung", exact=True).select_option("resnet_opencv_cpu")
    eventually(lambda: "resnet_opencv_cpu" in view.locator(".labkit-captions").inner_text())
    view.get_by_label("Compare with").select_option("resnet_pil_cpu")
    canvas = view.locator("canvas").first
    eventually(lambda: canvas.evaluate("c => c.width") == 1280)
    eventually(lambda: "resnet_pil_cpu" in line(sheet), 30)
    picture, name = canvas.bounding_box(), view.locator(".labkit-captions span").nth(1).bounding_box()
    assert abs(name["x"] - picture["x"] - picture["width"] / 2) < 5  # above its half
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

    view.get_by_label("Filter", exact=True).select_option("guided")
    eventually(lambda: " filter " in f" {view.locator('.labkit-legend').inner_text()} ", 60)
    keep(page, "filter")
    for slider, text in (("Filter radius (px)", "5"), ("Filter eps", "0.011")):
        field = view.locator(".labkit-field", has_text=slider)
        field.locator("input").focus()
        page.keyboard.press("ArrowRight")
        eventually(lambda field=field, text=text: field.locator("output").inner_text() == text)
        assert not page.locator(".jp-CodeCell.jp-mod-multiSelected").count()
    eventually(lambda: settings(sheet)["radius"] == 5 and 0.011 < settings(sheet)["eps"] < 0.012)
    view.get_by_label("Filter", exact=True).select_option("edges")
    eventually(lambda: settings(sheet)["filter"] == "edges")
    view.get_by_label("Filter", exact=True).select_option("none")

    view.get_by_label("Models").select_option("full")
    eventually(lambda: re.search("random weights|pretrained", weights(sheet)), 60, lambda: message(sheet))
    view.get_by_label("Models").select_option("lab")
    eventually(lambda: "scenes alone" in weights(sheet))

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


def test_sources_keys_classes_and_downloads(desk, lab, page, camera, tmp_path):
    sheet = desk(OPEN.format(source="photos"))
    sheet.run_cell()
    wait_until_running(sheet)
    view = sheet.view
    sources = view.get_by_label("Source", exact=True)
    sources.select_option("scenes")
    eventually(lambda: message(sheet).startswith("scenes · running"), 30, lambda: message(sheet))
    sources.select_option(label="file or address …")
    view.get_by_label("File, folder or address").fill(camera.name)
    page.keyboard.press("Enter")
    eventually(lambda: message(sheet).startswith(f"{camera.name} · running"), 30, lambda: message(sheet))
    sources.select_option("webcam")
    eventually(lambda: '"browser"' in message(sheet), 30, lambda: message(sheet))
    sources.select_option("browser")
    eventually(lambda: message(sheet).startswith("browser · running"), 30, lambda: message(sheet))
    assert len(numbers_shown(sheet, 2, 4)) > 3

    cells = page.locator(".jp-CodeCell").count()
    view.locator("canvas").first.click()
    for key, label, value in (
        ("g", "Filter", "guided"), ("g", "Filter", "edges"), ("g", "Filter", "none"),
        ("+", "Threshold", "0.55"), ("-", "Threshold", "0.5"),
    ):  # fmt: skip
        page.keyboard.press(key)
        control = view.get_by_label(label, exact=True)
        eventually(lambda c=control, v=value: c.input_value() == v, message=f"{key} does not give {value}")
        assert str(settings(sheet)[label.lower()]) == value
    page.keyboard.press("m")
    eventually(lambda: settings(sheet)["mirror"])
    eventually(lambda: view.get_by_role("button", name="Mirror").get_attribute("aria-pressed") == "true")
    press(sheet, "Full screen")
    eventually(lambda: page.evaluate("document.fullscreenElement?.className") == "labkit-stage")
    page.keyboard.press("m")
    eventually(lambda: not settings(sheet)["mirror"])
    page.keyboard.press("f")
    eventually(lambda: page.evaluate("document.fullscreenElement === null"))
    page.keyboard.press("i")  # no rate on the picture, so that only frames change it
    page.keyboard.press(" ")
    eventually(lambda: "paused" in message(sheet))
    time.sleep(0.5)
    held = numbers_shown(sheet, 1)
    assert len(held) == 1
    page.keyboard.press(".")
    eventually(lambda: numbers_shown(sheet, 0.2) != held, 10)
    page.keyboard.press(" ")
    eventually(lambda: len(numbers_shown(sheet, 1)) > 3)
    assert page.locator(".jp-CodeCell").count() == cells  # JupyterLab took none of the keys for its own
    assert page.locator(".jp-Cell.jp-MarkdownCell").count() == 0

    classes = view.locator(".labkit-classes")
    name = classes.get_by_role("button").first.inner_text(timeout=30_000).strip()
    found = classes.get_by_role("button", name=name, exact=True)  # others may be found, and stand before it
    found.click()
    eventually(lambda: found.get_attribute("aria-pressed") == "true")
    assert settings(sheet)["classes"] == [name]

    with page.expect_download() as picture:
        press(sheet, "Download picture")
    picture.value.save_as(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (640, 480)
    press(sheet, "Download clip")
    time.sleep(2)
    with page.expect_download() as clip:
        press(sheet, "End the clip")
    clip.value.save_as(tmp_path / clip.value.suggested_filename)
    film = cv2.VideoCapture(str(tmp_path / clip.value.suggested_filename))
    assert film.read()[1].shape == (480, 640, 3)
    film.release()
    keep(page, "sources-and-keys")


def test_the_axis_of_the_plot_is_not_flattened_by_the_first_bar(page):
    script = (Path(__file__).parents[2] / "labkit/live/live.js").read_text(encoding="utf-8")
    module = base64.b64encode(script.encode()).decode()
    top = f"async (totals) => (await import('data:text/javascript;base64,{module}')).axisTop(totals)"
    for totals, wanted in (
        ([900, 20, 21, 19, 22], 40), ([20, 21, 19, 22], 30), ([], 1), ([0.02], 0.1), ([300, 290], 300),
    ):  # fmt: skip
        assert page.evaluate(top, totals) == wanted


def test_a_saved_notebook_that_is_opened_again_says_what_was_there(desk, lab, page, browser):
    sheet = desk(OPEN.format(source="photos"))
    sheet.run_cell()
    wait_until_running(sheet)
    eventually(lambda: page.locator("[data-labkit-view] .labkit-live").count() == 1)
    sheet.save()
    page.reload()  # with the kernel alive the view is there again
    wait_until_running(sheet)
    page.goto("about:blank")
    copy = lab.folder / "reopened.ipynb"  # of which no kernel knows
    copy.write_text((lab.folder / sheet.name).read_text(encoding="utf-8"), encoding="utf-8")
    page.goto(lab.url(f"lab/tree/{copy.name}") + "&reset")
    page.get_by_text("A live view of photos was shown here; run this cell to see it again.").wait_for()
    time.sleep(2)
    assert "Error displaying widget" not in page.locator(".jp-Notebook").inner_text()
    keep(page, "reopened")


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


def test_a_view_and_a_long_cell_run_together_by_run_all(desk, lab, page, camera):
    """Until the kernel was idle once, no message gets through: then the view has to wait, not to stop."""
    sheet = desk(OPEN.format(source=camera.name), "import time\ntime.sleep(10)\nprint('slept')")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    eventually(lambda: "slept" in sheet.text_of(1), 60)
    wait_until_running(sheet)
    assert "no page" not in message(sheet)


def test_credentials_are_neither_shown_nor_stored(desk, lab, page):
    address = "http://anna:s3cr3t@127.0.0.1:9/film?token=hidden5"
    sheet = desk(OPEN.format(source=address))
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: "failed" in message(sheet), 30, lambda: message(sheet))
    assert "127.0.0.1:9/film" in message(sheet)
    stored = json.loads(sheet.save())
    stored["cells"][0]["source"] = []  # what the person wrote
    for told in (sheet.page.locator(".jp-OutputArea").first.inner_text(), json.dumps(stored)):
        assert not [word for word in ("anna", "s3cr3t", "hidden5") if word in told]


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
prepare = lambda settings, report: Ready((rung_of(evil, schedule),), (None,), (evil,))
player = player_of(rung=evil, prepare=prepare, source_name=evil)
widget = LiveWidget(lambda send: View(player, send))
widget.start()
widget"""
    sheet = desk(cell)
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: evil in sheet.view.locator(".labkit-found").inner_text())
    for part in (
        ".labkit-weights",
        ".labkit-captions",
        ".labkit-message",
        ".labkit-figures",
        ".labkit-classes",
    ):
        eventually(lambda part=part: evil in sheet.view.locator(part).inner_text())
    assert page.evaluate("window.hacked") is None
    assert page.locator(".labkit-live img, .labkit-live script").count() == 0
    keep(page, "hostile-names")


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
