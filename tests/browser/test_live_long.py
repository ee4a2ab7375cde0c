"""The long one: ten minutes of silence."""

import time

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS  # noqa: E402
from browser.looking import OPEN, eventually, note_pids, rate  # noqa: E402

pytestmark = MARKS


DEAF = """
const send = WebSocket.prototype.send;
window.unsaid = 0;
WebSocket.prototype.send = function (data) {
  if (typeof data !== "string" && /"type": ?"ack"/.test(new TextDecoder().decode(data))) {
    window.unsaid += 1;
    return;
  }
  return send.call(this, data);
};
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_minutes_with_a_browser_that_never_acknowledges(desk, lab, page, camera):
    page.add_init_script(DEAF)
    sheet = desk(OPEN.format(source=camera.name))
    sheet.run_cell()
    sheet.view.wait_for(timeout=30_000)
    eventually(lambda: rate(sheet, "inferred") > 0, 60)
    process = psutil.Process(note_pids(lab)[0])
    memory = []
    for _ in range(20):
        time.sleep(30)
        flights = lab.ask_kernel(
            sheet.name, "(view.view.connection.in_flight, view.view.connection.most_in_flight)"
        )
        memory.append(process.memory_info().rss / 1e6)
        print(f"{memory[-1]:.1f} MB, in flight {flights[0]}, at most {flights[1]}")
        assert flights[1] <= 2
        assert rate(sheet, "inferred") > 0
        assert rate(sheet, "displayed") == 0
    assert page.evaluate("window.unsaid") > 100
    assert memory[-1] - memory[0] < 20
