"""Saving apart from measuring: a store that takes no rows loses no measurement.

What the store refuses (a full disk, a lock, a folder that cannot be written) is kept in a spare store
in the folder of temporary files, and tried again at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from labkit.core.errors import ResultsError
from labkit.results import codec
from labkit.results.records import Comparison, Run
from labkit.results.store import Store, default_path
from labkit.results.sweeps import SweepPoint, keep_point

Saved = TypeVar("Saved")
Result = TypeVar("Result", bound=Run | Comparison)


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
        self._unsaved: list[Callable[[Store], object]] = []
        self._spared = 0
        try:
            self._store = Store(self.path)
        except ResultsError as error:
            report(f"results cannot be saved now, and are measured all the same: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tries once more to save what was refused; `notes` say what could not be."""
        for store in (self._store, self._spare):
            if store is not None:
                store.close()
        if not self._unsaved:
            return
        try:
            with Store(self.path) as store:
                for save in self._unsaved:
                    save(store)
        except ResultsError as error:
            self.notes = [self._what_is_lost(error)]
            if kind is not None:  # there will be no result to show the notes with
                self._report(self.notes[0])
        if self._spare is not None and not (self.notes and self._spared):  # nothing is kept in it alone
            shutil.rmtree(self._spare.path.parent, ignore_errors=True)

    def add(self, result: Result) -> Result:
        """The run or comparison, with its id if it was saved."""
        return self._saved(lambda store: store.add(replace(result, id=None)), result)

    def keep_point(
        self, sweep: str, point: str, about: Mapping[str, Any], result: Run | str
    ) -> tuple[SweepPoint, Run | None]:
        """The row of a sweep's point, and its run; without ids if they were not saved.

        The arguments are those of `labkit.results.sweeps.keep_point`.
        """
        run, reason = (result, None) if isinstance(result, Run) else (None, result)
        row = SweepPoint(sweep, point, about, reason=reason)
        return self._saved(lambda store: keep_point(store, sweep, point, about, result), (row, run))

    def _saved(self, save: Callable[[Store], Saved], otherwise: Saved) -> Saved:
        """Result of `save` with the store; `otherwise`, where that refuses it."""
        if self._store is not None:
            try:
                return save(self._store)
            except ResultsError as error:
                self._report(f"not saved yet, and measured all the same: {error}")
                self._store.close()
                self._store = None  # a lock that is waited for again and again would stop the measuring
        self._unsaved.append(save)
        with suppress(ResultsError, OSError):
            if self._spare is None:
                self._spare = spare_store(self.path)
            save(self._spare)
            self._spared += 1
        return otherwise

    def _what_is_lost(self, error: ResultsError) -> str:
        count = f"{len(self._unsaved)} result{'s' if len(self._unsaved) > 1 else ''}"
        if self._spare is None or not self._spared:
            return f"{count} could not be saved, and are only shown here: {error}"
        some = self._spared < len(self._unsaved)
        there = f"{self._spared} of them, the others being only shown here," if some else "They"
        return (
            f"{count} could not be saved: {error}. {there} can be found in {self._spare.path}; "
            f"to save them: labkit results add {self._spare.path}"
        )


def spare_store(path: Path) -> Store:
    """A new store in the folder of temporary files, for what the one at `path` does not take.

    Raises:
        ResultsError: it cannot be written.
        OSError: there is no such folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="labkit-unsaved-"))
    try:
        return Store(folder / path.name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def store_or_spare(path: Path) -> Iterator[tuple[Store, ResultsError | None]]:
    """The store at `path`, or a spare one and why; a spare one that no run was added to is removed.

    Raises:
        ResultsError: neither can be written.
        OSError: there is no folder for the spare one.
    """
    refusal = None
    try:
        opened = Store(path)
    except ResultsError as error:
        opened, refusal = spare_store(path), error
    with ExitStack() as at_the_end:
        if refusal is not None:
            at_the_end.callback(_remove_if_empty, opened.path)
        yield at_the_end.enter_context(opened), refusal


def _remove_if_empty(spare: Path) -> None:
    with Store(spare) as store:
        empty = not store.runs()
    if empty:
        shutil.rmtree(spare.parent, ignore_errors=True)


def add_all(store: Store, results: Iterable[Run | Comparison]) -> int:
    """Adds results that a store does not have yet, all or none; returns how many those were.

    Raises:
        ResultsError: the store cannot be written.
    """
    with store.transaction():  # from here on no other process adds any
        stored: list[Run | Comparison] = [*store.runs(), *store.comparisons()]
        there = {_identity(each) for each in stored}
        new = [each for each in results if _identity(each) not in there]
        for each in new:
            store.add(replace(each, id=None))
    return len(new)


def _identity(result: Run | Comparison) -> tuple[object, ...]:
    """Values that tell a result from every other: its names and its samples, to the last bit."""
    if isinstance(result, Run):
        return (result.rung, result.scenario, codec.pack(codec.series_of(result)))
    return (result.a, result.b, codec.pack({"a_s": result.a_s, "b_s": result.b_s}))
