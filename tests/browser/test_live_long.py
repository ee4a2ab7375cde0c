"""The long ones: a hundred runs of one cell, and ten minutes of silence."""

import time

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

from browser.chromium import MARKS  # noqa: E402
from browser.looking import OPEN, eventually, note_pids, rate, running_views, wait_until_running  # noqa: E402

pytestmark = MARKS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_cell_run_a_hundred_times_leaves_the_kernel_as_it_was(desk, lab, page, camera):
    sheet = desk(OPEN.format(source=camera.name))
    seen = []
    for turn in range(101):
        sheet.run_cell()
        wait_until_running(sheet)
        assert running_views(lab) == 1
        if turn % 20 == 0:
            process = psutil.Process(note_pids(lab)[0])
            usage = process.num_threads(), process.num_fds(), round(process.memory_info().rss / 1e6, 1)
            seen.append((turn, *usage, len(process.children())))
            print(*zip(("turn", "threads", "descriptors", "MB", "children"), seen[-1], strict=True))
    (_, threads, files, memory, children), last = seen[1], seen[-1]
    assert last[1] <= threads and last[2] <= files and last[4] <= children
    assert last[3] - memory < 30
    assert page.locator(".labkit-live").count() == 1


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
