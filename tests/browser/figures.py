"""The live view with Chromium on the same cores as detection: `python tests/browser/figures.py FILE`.

Beside `python tests/live_figures.py`, whose client costs nothing, this shows what a browser on the
same machine takes, and how long pictures of the browser's own camera are on their way. To be run on a
machine with nothing else to do; writes JSON.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import sync_playwright

from browser.chromium import launch
from browser.film import write_mjpeg
from browser.lab import Desk, JupyterLab
from browser.looking import line, rate
from labkit.core.machine import fingerprint

SECONDS = 20
OPEN = (
    "from labkit.live.start import live\n"
    "live({source!r}, rung='cpu_engine_bf16', model_set={models!r}, weights={weights!r})"
)


def figures_of(desk, source, models):
    """Medians of what the view's line says, once per second."""
    desk.run_cell()
    desk.view.wait_for(timeout=60_000)
    seen = {"displayed": [], "inferred": [], "age": []}
    begun = None
    while begun is None or time.monotonic() < begun + SECONDS:
        rates = {name: rate(desk, name) for name in ("displayed", "inferred")}
        age = re.search(r"displayed [0-9.]+ (\d+) ms", line(desk))
        if all(rates.values()) and age:
            begun = begun or time.monotonic()
            if time.monotonic() > begun + 5:  # the rates look back for some seconds
                for name, found in rates.items():
                    seen[name].append(found)
                seen["age"].append(float(age.group(1)))
        time.sleep(1)
    desk.view.get_by_role("button", name="Stop").click()
    return {
        "source": source,
        "models": models,
        "rung": "cpu_engine_bf16",
        "displayed_fps": statistics.median(seen["displayed"]),
        "detections_per_s": statistics.median(seen["inferred"]),
        "picture_age_p50_ms": statistics.median(seen["age"]),
        "looks": len(seen["age"]),
    }


def main(path):
    """Both sources with both sets of models, one after the other."""
    told = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        folder = Path(folder)
        lab = JupyterLab(folder, XDG_CACHE_HOME=str(Path.home() / ".cache"), LABKIT_HOME=str(folder / "kept"))
        browser = launch(driver, film=write_mjpeg(folder / "numbers.mjpeg", 300))
        try:
            for source in ("photos", "browser"):
                for models, weights in (("full", "random"), ("lab", "auto")):
                    page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
                    cell = OPEN.format(source=source, models=models, weights=weights)
                    desk = Desk(lab, page, lab.notebook(f"{source}-{models}.ipynb", cell))
                    told.append(figures_of(desk, source, models))
                    for session in lab.api("sessions"):
                        lab.api(f"sessions/{session['id']}", "DELETE")
                    page.context.close()
        finally:
            browser.close()
            lab.close()
    Path(path).write_text(json.dumps({"figures": told, "fingerprint": fingerprint()}, indent=1, default=str))
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
