"""Saving apart from measuring: a store that takes no rows loses no measurement.

What the store refuses (a full disk, a lock, a folder that cannot be written) is kept in a spare store
in the folder of temporary files, and tried again at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from labkit.core.errors import ResultsError
from labkit.results import codec
from labkit.results.records import Comparison, Run
from labkit.results.store import Store, default_path
from labkit.results.sweeps import SweepPoint, keep_point

Result = Run | Comparison


class Saving:
    """A context manager that takes finished results as a store does, and never fails.

    Attributes:
        path: of the store.
        notes: sentences on what was not saved, and how to save it; known when the context ends.
    """

    def __init__(
        self, path: Path | None = None, *, report: Callable[[str], None] = lambda line: None
    ) -> None:
        self.path = default_path() if path is None else path
        self.notes: list[str] = []
        self._report = report
        self._store: Store | None = None
        self._spare: Store | None = None
        self._unsaved: list[Result] = []
        try:
            self._store = Store(self.path)
        except ResultsError as error:
            report(f"results cannot be saved now, and are measured all the same: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Tries once more to save what was refused, and says what could not be saved."""
        if self._store is not None:
            self._store.close()
        if not self._unsaved:
            return
        try:
            with Store(self.path) as store:
                add_all(store, *_by_kind(self._unsaved))
        except ResultsError as error:
            self.notes = [self._what_is_lost(error)]
            self._report(self.notes[0])
        else:
            self._drop_spare()

    def add_run(self, run: Run) -> Run:
        """The run, with its id if it was saved."""
        saved = self._add(run)
        assert isinstance(saved, Run)
        return saved

    def add_comparison(self, comparison: Comparison) -> Comparison:
        """The comparison, with its id if it was saved."""
        saved = self._add(comparison)
        assert isinstance(saved, Comparison)
        return saved

    def _add(self, result: Result) -> Result:
        if self._store is not None:
            try:
                return _add_to(self._store, result)
            except ResultsError as error:
                self._report(f"not saved yet, and measured all the same: {error}")
                self._store.close()
                self._store = None  # a lock that is waited for again and again would stop the measuring
        self._unsaved.append(result)
        with suppress(ResultsError, OSError):
            if self._spare is None:
                self._spare = spare_store(self.path)
            _add_to(self._spare, result)
        return result

    def _what_is_lost(self, error: ResultsError) -> str:
        count = f"{len(self._unsaved)} result{'s' if len(self._unsaved) > 1 else ''}"
        kept = 0
        if self._spare is not None:
            with suppress(ResultsError):
                kept = len(self._spare.runs()) + len(self._spare.comparisons())
        if self._spare is None or kept < len(self._unsaved):
            return f"{count} could not be saved, and are only shown here: {error}"
        self._spare.close()
        return (
            f"{count} could not be saved: {error}. They are in {self._spare.path}; "
            f"to save them: labkit results add {self._spare.path}"
        )

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            shutil.rmtree(self._spare.path.parent, ignore_errors=True)


class PointSaving:
    """Takes the points of a sweep as `keep_point` does, and never fails.

    Args:
        store: where to; what it refuses is kept in a spare one, and tried again at the end.
        report: is told of the first refusal.
    """

    def __init__(self, store: Store, report: Callable[[str], None]) -> None:
        self._store, self._report = store, report
        self._spare: Store | None = None
        self._refused: list[tuple[str, str, Mapping[str, Any], Run | str]] = []

    def keep(
        self, sweep: str, point: str, about: Mapping[str, Any], result: Run | str
    ) -> tuple[SweepPoint, Run | None]:
        """The row of a point, and its run; without ids where not even the spare store takes them."""
        if not self._refused:
            try:
                return keep_point(self._store, sweep, point, about, result)
            except ResultsError as error:
                self._report(f"not saved yet, and measured all the same: {error}")
        self._refused.append((sweep, point, about, result))
        with suppress(ResultsError, OSError):
            if self._spare is None:
                self._spare = spare_store(self._store.path)
            keep_point(self._spare, sweep, point, about, result)
        reason = result if isinstance(result, str) else None
        return SweepPoint(sweep, point, about, reason=reason), result if isinstance(result, Run) else None

    def finish(self) -> list[str]:
        """Tries once more to save what was refused; sentences on what could not be saved."""
        try:
            for each in self._refused:
                keep_point(self._store, *each)
        except ResultsError as error:
            note = f"{len(self._refused)} points could not be saved: {error}"
            if self._spare is None or len(self._spare.sweep_points(dict)) < len(self._refused):
                return [f"{note}; they are only shown here"]
            self._spare.close()
            return [
                f"{note}. Their runs are in {self._spare.path}; "
                f"to save them: labkit results add {self._spare.path}"
            ]
        if self._spare is not None:
            self._spare.close()
            shutil.rmtree(self._spare.path.parent, ignore_errors=True)
        return []


def spare_store(path: Path) -> Store:
    """A new store in the folder of temporary files, for what the one at `path` does not take.

    Raises:
        ResultsError: it cannot be written.
        OSError: there is no such folder.
    """
    return Store(Path(tempfile.mkdtemp(prefix="labkit-unsaved-")) / path.name)


def add_all(store: Store, runs: Iterable[Run], comparisons: Iterable[Comparison]) -> int:
    """Adds results that a store does not have yet; returns how many those were.

    Raises:
        ResultsError: the store cannot be written.
    """
    stored: list[Result] = [*store.runs(), *store.comparisons()]
    there = {_identity(each) for each in stored}
    given: list[Result] = [*runs, *comparisons]
    new = [each for each in given if _identity(each) not in there]
    for each in new:
        _add_to(store, each)
    return len(new)


def _add_to(store: Store, result: Result) -> Result:
    result = replace(result, id=None)
    return store.add_run(result) if isinstance(result, Run) else store.add_comparison(result)


def _by_kind(results: Iterable[Result]) -> tuple[list[Run], list[Comparison]]:
    results = list(results)
    return (
        [each for each in results if isinstance(each, Run)],
        [each for each in results if isinstance(each, Comparison)],
    )


def _identity(result: Result) -> tuple[object, ...]:
    """Values that tell a result from every other: its names and its samples, to the last bit."""
    if isinstance(result, Run):
        return (result.rung, result.scenario, codec.pack(codec.run_series(result)))
    return (result.a, result.b, codec.pack({"a_s": result.a_s, "b_s": result.b_s}))
