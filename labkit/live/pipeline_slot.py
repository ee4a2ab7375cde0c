"""Prepared networks, kept for the next start: running the cell again costs no second preparation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from labkit.core.types import Workload
from labkit.live.inference import Ready
from labkit.live.settings import LiveSettings

KEPT = 2  # one view and its comparison; more would hold memory that nobody looks at

_kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_lock = threading.Lock()


def forget_prepared() -> None:
    """Leaves the kept networks to a thread that hangs in them; the next ones are prepared anew."""
    global _kept, _lock
    _kept, _lock = OrderedDict(), threading.Lock()


def prepare_rungs(settings: LiveSettings, report: Callable[[str], None]) -> Ready:
    """The rungs that the settings name, with their networks for frames of their size.

    Raises:
        UsageError: no rung has that name.
        UnavailableError, WeightsError: it cannot run here, or its weights cannot be had.
    """
    from labkit.pipelines.ladder import rung

    assert settings.model_set != "auto", "resolve the settings first"
    workload = Workload(
        model_set=settings.model_set,
        weights=settings.weights,
        size=settings.size,
        objects=settings.objects,
        detector=settings.detector,
        classifier=settings.classifier,
    )
    rungs = tuple(rung(name) for name in settings.rungs)
    with _lock:
        prepared = [_prepared(each, workload, report, {r.name for r in rungs}) for each in rungs]
    lines = [_describe(settings.model_set, each) for each in prepared]
    return Ready(rungs, tuple(each.net for each in prepared), tuple(dict.fromkeys(lines)))


def _prepared(rung: Any, workload: Workload, report: Callable[[str], None], wanted: set[str]) -> Any:
    from labkit.models.prepare import prepare

    how = str(rung.prepare.describe())
    key = (rung.name, how, workload)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    for old in list(_kept):  # before the new one is built, so that never more than KEPT are in memory
        if len(_kept) >= KEPT and old[0] not in wanted:
            del _kept[old]
    while len(_kept) >= KEPT:
        _kept.popitem(last=False)
    report(f"preparing {rung.name}")
    _kept[key] = prepare(rung.prepare, workload, report=report)
    return _kept[key]


def _describe(model_set: str, prepared: Any) -> str:
    kinds = prepared.settings.get("weights_kind", {})
    names = " + ".join(kinds) or model_set
    kind = prepared.settings.get("weights")
    if kind == "own":
        return "a loop of your own: its networks are its own"
    if kind == "random":
        return f"{names}: random weights; speed is real, names mean nothing"
    if kind == "mixed":
        return f"{', '.join(f'{n}: {k}' for n, k in kinds.items())}; names of random weights mean nothing"
    if kind == "pretrained":
        return f"{names}: pretrained weights"
    return f"{names}: trained on the drawn things of scenes alone; of anything else the names mean nothing"
