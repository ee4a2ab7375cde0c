"""The camera is free again, whatever becomes of the page, the browser or the kernel."""

import time

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS, launch  # noqa: E402
from browser.lab import Desk  # noqa: E402
from browser.looking import (  # noqa: E402
    FREE_S,
    OPEN,
    SILENCE_S,
    eventually,
    freed_after,
    holders,
    keep,
    message,
    new_page,
    numbers_shown,
    press,
    running_views,
    wait_until_running,
)

pytestmark = MARKS


def test_the_camera_is_free_after_interrupt_reload_restart_and_closing(desk, lab, page, camera):
    sheet = desk(OPEN.format(source=camera.name), "import time\ntime.sleep(100)")
    sheet.run_cell()
    wait_until_running(sheet)
    assert holders(lab, camera)
    kernel = next(s["kernel"]["id"] for s in lab.api("sessions") if s["path"] == sheet.name)

    def interrupt():
        lab.api(f"kernels/{kernel}/interrupt", "POST")

    def free():
        return not holders(lab, camera)

    sheet.begin_cell(1)
    # Pictures come while a cell runs.
    eventually(lambda: len(numbers_shown(sheet, 2)) > 5, 30.0, lambda: message(sheet))
    freed_after(interrupt, free)
    eventually(lambda: "KeyboardInterrupt" in sheet.text_of(1))
    eventually(lambda: "interrupt" in message(sheet))
    press(sheet, "Start")
    wait_until_running(sheet)
    freed_after(interrupt, free)  # no cell runs now
    press(sheet, "Start")
    wait_until_running(sheet)

    sheet.save()
    page.reload()
    sheet.wait_until_ready()
    wait_until_running(sheet)  # the page comes back, and so does the view
    keep(page, "reloaded")

    sheet.restart_kernel()
    freed_after(sheet.confirm, free)
    sheet.wait_until_ready()
    sheet.run_cell()
    wait_until_running(sheet)
    sheet.close_notebook()
    freed_after(sheet.discard, free, SILENCE_S)
    keep(page, "closed-notebook")


def test_the_camera_is_free_when_the_tab_is_closed_or_goes_elsewhere(desk, lab, page, camera, browser):
    sheet = desk(OPEN.format(source=camera.name))
    sheet.run_cell()
    wait_until_running(sheet)
    sheet.save()
    freed_after(lambda: page.goto("about:blank"), lambda: not holders(lab, camera))
    page.go_back()
    sheet.wait_until_ready()
    wait_until_running(sheet)
    assert holders(lab, camera)
    freed_after(page.close, lambda: not holders(lab, camera))


def test_the_camera_is_free_when_the_browser_dies(desk, driver, lab, camera):
    before = set(psutil.Process().children(recursive=True))
    chromium = launch(driver)
    pages = new_page(chromium)
    page = next(pages)
    sheet = desk(OPEN.format(source=camera.name), page=page)
    sheet.run_cell()
    wait_until_running(sheet)
    mine = set(psutil.Process().children(recursive=True)) - before

    def kill():
        for process in mine:
            if process.is_running() and "chrom" in process.name():
                process.kill()

    freed_after(kill, lambda: not holders(lab, camera), SILENCE_S)


def test_two_tabs_show_one_view_and_the_last_one_frees_the_camera(desk, lab, page, camera):
    sheet = desk(OPEN.format(source=camera.name))
    sheet.run_cell()
    wait_until_running(sheet)
    sheet.save()
    second_page = page.context.new_page()
    second = Desk(lab, second_page, sheet.name)
    wait_until_running(second)
    eventually(lambda: len(numbers_shown(second, 1)) > 2)
    page.bring_to_front()
    eventually(lambda: len(numbers_shown(sheet, 1)) > 2)
    assert len(set(holders(lab, camera))) == 1 == running_views(lab)
    second.view.get_by_label("Threshold").focus()
    second_page.keyboard.press("Home")
    eventually(lambda: sheet.view.locator("output").first.inner_text() == "0")  # both show what is set
    page.close()
    time.sleep(FREE_S + 0.5)
    assert holders(lab, camera)
    eventually(lambda: len(numbers_shown(second, 1)) > 2)
    freed_after(second_page.close, lambda: not holders(lab, camera))
