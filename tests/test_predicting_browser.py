"""The form that asks for a forecast, in real JupyterLab: noted by a click, closed by the result."""

from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import CHROMIUM, launch  # noqa: E402
from browser.lab import Desk, JupyterLab  # noqa: E402

ARTEFACTS = Path(__file__).parents[1] / "build" / "predicting"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]

ASK = "from labkit.predicting import predict\nforecast = predict('How many <b>times</b>?')"
TELL = "print('the answer is', forecast.answer)"
SCORE = "from records_made_up import made_up_comparison\nprint(forecast.score(made_up_comparison(ratio=2.5)))"


@pytest.fixture
def lab(tmp_path):
    server = JupyterLab(
        tmp_path, LABKIT_HOME=str(tmp_path / "kept"), PYTHONPATH=str(Path(__file__).parent)
    )  # fmt: skip
    yield server
    server.close()


def test_a_click_notes_a_forecast_and_the_result_closes_the_form(lab):
    with playwright.sync_playwright() as driver:
        browser = launch(driver)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        desk = Desk(lab, page, lab.notebook("forecast.ipynb", ASK, TELL, SCORE))
        desk.run_cell(0)
        page.get_by_text("How many <b>times</b>?", exact=True).wait_for(timeout=30_000)
        field = page.locator(".widget-text input, .jupyter-widgets input").first
        field.fill("2.5")
        field.press("Tab")
        page.get_by_role("button", name="Note").click()
        page.get_by_text("Noted: How many <b>times</b>? -> 2.5 times").wait_for(timeout=15_000)
        desk.run_cell(1)
        assert "the answer is 2.5" in desk.text_of(1)
        desk.run_cell(2)
        assert "You expected 2.5 times" in desk.text_of(2)
        page.get_by_text("nothing can be noted any more").wait_for(timeout=15_000)
        assert page.get_by_role("button", name="Note").is_disabled()
        assert page.get_by_role("button", name="Skip").is_disabled()
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(ARTEFACTS / "form.png"))
        browser.close()
