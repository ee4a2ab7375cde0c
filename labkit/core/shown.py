"""What a notebook shows: tables without row numbers, and text whose lines end between words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from labkit.core.terminal import printable

if TYPE_CHECKING:
    import pandas as pd


class ShownText:
    """A base for what a notebook shows as its text: in paragraphs, which a page breaks between words.

    Printed text is no alternative there: JupyterLab breaks it anywhere, inside words and figures too.
    """

    def __repr__(self) -> str:
        return printable(str(self))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        del include, exclude
        lines = repr(self).splitlines()
        return {
            "text/plain": "\n".join(lines),
            "text/html": "".join(f'<p style="margin: 0 0 0.4em">{escape(line)}</p>' for line in lines),
        }


class Sentence(ShownText, str):
    """A string that a notebook shows as text, without quotes."""


class Sentences(ShownText, list[str]):
    """Strings that a notebook shows one below the other."""

    def __str__(self) -> str:
        return "\n".join(self)


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
