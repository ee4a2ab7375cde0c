"""The form that asks for a prediction, in real JupyterLab: noted by a click, closed by the result."""

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS
from browser.looking import ARTEFACTS, eventually

pytestmark = MARKS

ASK = "from labkit.lessons.predict import predict\nprediction = predict('How many <b>times</b>?')"
TELL = "print('the answer is', prediction.answer)"
SCORE = (
    "from records_made_up import made_up_comparison\nprint(prediction.score(made_up_comparison(ratio=2.5)))"
)


def test_a_click_notes_a_prediction_and_the_result_closes_the_form(desk, page):
    sheet = desk(ASK, TELL, SCORE)
    sheet.run_cell(0)
    page.get_by_text("How many <b>times</b>?", exact=True).wait_for(timeout=30_000)
    field = page.locator(".widget-text input, .jupyter-widgets input").first
    field.fill("2.5")
    field.press("Tab")
    page.get_by_role("button", name="Note").click()
    page.get_by_text("Noted: How many <b>times</b>? -> 2.5 times").wait_for(timeout=15_000)
    sheet.run_cell(1)
    assert "the answer is 2.5" in sheet.text_of(1)
    sheet.run_cell(2)
    assert "You predicted 2.5 times" in sheet.text_of(2)
    page.get_by_text("nothing can be noted any more").wait_for(timeout=15_000)
    assert page.get_by_role("button", name="Note").is_disabled()
    assert page.get_by_role("button", name="Skip").is_disabled()
    folder = ARTEFACTS.parent / "predicting"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / "form.png"))
    saved = sheet.save()
    assert "widget-view" not in saved and "Your prediction was asked here: How many" in saved


def test_sliders_work_in_their_place_and_leave_a_sentence(desk, page):
    sheet = desk("from labkit.lessons.nb04_filter import try_filter\ntry_filter(size=(160, 120))")
    sheet.run_cell(0)
    place = page.locator("[data-labkit-view]")
    image = place.locator("img")
    image.wait_for(timeout=60_000)
    before = image.get_attribute("src")
    handle = place.locator(".noUi-handle").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    eventually(lambda: image.get_attribute("src") != before)
    saved = sheet.save()
    assert "widget-view" not in saved and "Sliders of the guided filter were here" in saved
