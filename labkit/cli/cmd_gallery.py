"""`labkit gallery`: every notebook, executed, as pages that need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.core.errors import LabError, UsageError
from labkit.core.terminal import print_text
from labkit.lessons.gallery import MINUTES, renew_text, write_gallery


def gallery(
    notebook: Annotated[list[Path] | None, typer.Argument(help="Notebooks; default: all.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder; default results/gallery.")] = None,
    minutes: Annotated[float, typer.Option(help="The most that one notebook may take.")] = MINUTES,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set where a notebook has it.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Run nothing: only take changed text over into copies.")
    ] = False,
) -> None:
    """Run every notebook and write pages that can be read without a network."""
    from labkit.bench.progress import err, print_lines

    if text:
        print_text(*renew_text(notebook, to), sep="\n")
        return
    written = write_gallery(
        notebook,
        to,
        minutes=minutes,
        parameters=_parameters(parameter or []),
        progress=lambda line: print_lines([line], console=err),
    )
    print_text(written.index)
    troubled = [each.path.name for each in written.executed if each.trouble]
    if troubled:
        raise LabError(f"not run to the end: {', '.join(troubled)}; their pages say why")


def _parameters(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise UsageError(f'a parameter is NAME=VALUE, such as SOURCE="scenes", not {name!r}')
    return {name.strip(): value.strip() for name, _, value in pairs}
