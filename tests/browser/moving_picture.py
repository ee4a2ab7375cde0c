"""The README's picture: `python tests/browser/moving_picture.py FILE.webp` films the live view in Chromium.

It shows the widget itself on a source, with the rates that it measures meanwhile; a FILE.png is a still
picture. To be run on a machine with nothing else to do.
"""

import argparse
import base64
import io
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image
from playwright.sync_api import sync_playwright

from browser.chromium import launch
from browser.looking import Sheet, eventually, line, message, shown, wait_until_running

MOST_BYTES = 2_000_000
FPS = 8


def film(page, seconds):
    """Pictures of the page, as it was painted, with the time of each in s."""
    seen = []
    session = page.context.new_cdp_session(page)

    def keep(event):
        if not seen or event["metadata"]["timestamp"] >= seen[-1][0] + 1 / FPS:
            seen.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 95, "everyNthFrame": 3})
    page.wait_for_timeout(1e3 * seconds)
    session.send("Page.stopScreencast")
    return seen


def save_moving(path, seen):
    """An animated WebP that lasts as long as what it shows, as good as MOST_BYTES allow."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in seen]
    lasts_ms = [round(1e3 * (after - before)) for (before, _), (after, _) in pairwise(seen)]
    lasts_ms.append(round(1e3 / FPS))
    for quality in (85, 70, 55, 40, 25, 10):
        pictures[0].save(
            path,
            save_all=True,
            append_images=pictures[1:],
            duration=lasts_ms,
            loop=0,
            quality=quality,
            method=5,
        )
        if path.stat().st_size <= MOST_BYTES:
            return quality
    raise SystemExit(f"{path} is larger than {MOST_BYTES} bytes; film fewer seconds")


def main():
    """Films one view; prints the figures that stand in the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--source", default="scenes")
    parser.add_argument("--rung", default="auto")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    asked = parser.parse_args()
    options = ("--source", asked.source, "--rung", asked.rung)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = launch(driver)
        page = browser.new_page(viewport={"width": 1040, "height": 700}, color_scheme=asked.theme)
        with shown(Path(folder), *options) as (address, _):
            page.goto(address)
            sheet = Sheet(page)
            wait_until_running(sheet, 600)
            eventually(lambda: "…" not in message(sheet), 600)
            time.sleep(5)  # the rates look back for two seconds, and the plot fills
            height = sheet.view.evaluate("each => Math.ceil(each.getBoundingClientRect().bottom) + 8")
            page.set_viewport_size({"width": 1040, "height": height})
            if asked.file.suffix == ".png":
                page.screenshot(path=str(asked.file))
                told = "a still picture"
            else:
                seen = film(page, asked.seconds)
                told = f"{len(seen)} pictures, quality {save_moving(asked.file, seen)}"
            print(f"{asked.file}: {asked.file.stat().st_size} bytes, {told}")
            print(message(sheet), line(sheet), sep="\n")
        browser.close()


if __name__ == "__main__":
    main()
