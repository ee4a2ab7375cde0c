"""`labkit live`: the live view on a page of its own."""

from __future__ import annotations

import html
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, cast

import typer

from labkit.cli.options import as_keywords, work_options
from labkit.core.scratch import scratch_folder
from labkit.core.terminal import print_text
from labkit.core.types import Workload


@work_options(without=("model_set", "weights", "seed"), source="webcam", objects=10)
def live(
    rung: Annotated[str, typer.Option(help="Whose answers are shown; auto: the best one here.")] = "auto",
    model_set: Annotated[
        str, typer.Option(help="full, lab, or auto: what can recognise something.")
    ] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest score that is drawn; by default 0.5 for boxes, 0.15 for whole frames."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page where there is a screen.")
    ] = True,
    **work: Any,
) -> None:
    """Watch a camera with boxes and names in the browser; Ctrl-C ends it."""
    from labkit.core.terminal import screen
    from labkit.live.page import serve
    from labkit.live.settings import LiveSettings, ModelSet
    from labkit.models.weights import models_of
    from labkit.pipelines.ladder import rung as rung_named

    if rung != "auto":
        rung_named(rung)  # an unknown name is told before a server starts
    work = as_keywords(work)
    models = {name: work[name] for name in ("detector", "classifier")}
    if any(models.values()):
        models_of(Workload(**models))
    settings = LiveSettings(
        rung=rung,
        model_set=cast("ModelSet", model_set),
        **models,
        size=work["size"],
        threshold=threshold,
        objects=work["objects"],
    )
    opening = {name: work[name] for name in ("fit", "open_timeout_s", "read_timeout_s")}
    with ExitStack() as until_the_end:

        def ready(address: str) -> None:
            print_text(f"open {address}", flush=True)
            if browser and screen():  # else Python might start a browser in this very terminal
                webbrowser.open(until_the_end.enter_context(forwarding_page(address)))

        serve(work["source"], settings, port=port, ready=ready, saved=print_text, opening=opening)


@contextmanager
def forwarding_page(address: str) -> Iterator[str]:
    """A file of this user's alone that leads to `address`, as a file:// address.

    Command lines can be read by everyone on a machine, and a browser is handed its page on one.
    """
    with scratch_folder("live") as folder:
        page = folder / "open.html"
        page.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">\n')
        yield page.as_uri()
