"""Data frames as a notebook shows them: no row numbers, blanks for what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from labkit.core.terminal import printable

if TYPE_CHECKING:
    import pandas as pd


def shown_table(rows: Sequence[Any], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A data frame that a notebook shows without row numbers, and with blanks for what is not known.

    Args:
        rows: tuples in the order of `columns`, or dictionaries by column.
        columns: their names; those of the dictionaries by default.
    """
    frame: pd.DataFrame = _table_class()(rows, columns=None if columns is None else list(columns))
    for name in frame.columns[frame.isna().all()]:
        frame[name] = math.nan  # a column of nothing but None would show that word
    return frame


def table_html(frame: pd.DataFrame) -> str:
    """HTML of a table: no row numbers, blanks for what is not known."""
    return printable(str(frame.to_html(index=False, na_rep="", border=0)))


@cache
def _table_class() -> Any:
    import pandas as pd

    class Table(pd.DataFrame):
        @property
        def _constructor(self) -> Any:
            return Table

        def _repr_html_(self) -> str:
            return table_html(self)

    return Table
