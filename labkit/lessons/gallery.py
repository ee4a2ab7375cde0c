"""All notebooks, executed, as pages that can be read anywhere: no script, no network.

Each notebook runs in a kernel of its own, one after the other, for a bounded time. What it
stores lands in a scratch folder, so that a gallery leaves no forecasts or runs behind.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.files import write_whole
from labkit.lessons import pages
from labkit.lessons.executed import Executed, Gallery
from labkit.results.store import default_path

MINUTES = 15.0
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = ("HBox(", "Output(", "FloatProgress(", "IntProgress(")
SHOWN = ("text/html", "image/png", "image/svg+xml", "image/jpeg", "text/markdown", "text/plain")


def write_gallery(
    notebooks: Sequence[Path] | None = None,
    folder: Path | None = None,
    *,
    minutes: float = MINUTES,
    parameters: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """Executes notebooks and writes one page each, and an index.

    Args:
        notebooks: default: all of the folder `notebooks`, in order.
        folder: where the pages go; default: `gallery` beside the results.
        minutes: the most that one notebook may take; it is then stopped, and its page says so.
        parameters: name -> Python expression, set after a notebook's parameters cell.
        progress: hears one line per notebook.

    Raises:
        UsageError: there is no notebook, or a parameter is no name and expression.
        UnavailableError: a package that executes or converts notebooks is missing.
        ResultsError: a page cannot be written.
    """
    _check_packages()
    found = [Path(path) for path in notebooks] if notebooks else sorted(Path("notebooks").glob("*.ipynb"))
    if not found or not all(path.is_file() for path in found):
        missing = next((str(path) for path in found if not path.is_file()), "notebooks/*.ipynb")
        raise UsageError(
            f"there is no notebook {missing}; run this in the project's folder, or name notebooks"
        )
    if not minutes > 0:
        raise UsageError(f"minutes is more than 0, not {minutes}")
    _check_parameters(parameters or {})
    folder = Path(folder) if folder else default_path().parent / "gallery"
    done = []
    for path in found:
        progress(f"{path.name} ...")
        executed = execute(path, minutes * 60, parameters)
        done.append(executed)
        progress(f"{path.name}: {executed.trouble or 'complete'} ({executed.seconds:.0f} s)")
        names = [each.stem for each in found]
        write_whole(folder / f"{path.stem}.html", pages.page(executed, names))
    return Gallery(write_whole(folder / "index.html", pages.index(done)), tuple(done))


def execute(path: Path, limit_s: float, parameters: Mapping[str, str] | None = None) -> Executed:
    """Runs a notebook from top to bottom; cells after one that fails are run too.

    Args:
        path: of the notebook, which is left as it is.
        limit_s: after so many seconds the kernel is stopped.
        parameters: name -> expression, set after the parameters cell where that has the name.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    _insert(notebook, parameters or {})
    began = time.perf_counter()
    trouble = asyncio.run(_run(notebook, path, limit_s)) or _failed(notebook)
    _make_readable(notebook)
    return Executed(path, notebook, time.perf_counter() - began, trouble)


async def _run(notebook: Any, path: Path, limit_s: float) -> str | None:
    """Executes in place; says why not every cell was run, if that is so."""
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    with tempfile.TemporaryDirectory(prefix="labkit-gallery-") as home:
        _link_recorded(Path(home))
        client = NotebookClient(
            notebook,
            timeout=None,
            allow_errors=True,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        deadline_s = time.perf_counter() + limit_s
        try:
            await asyncio.wait_for(client.async_execute(env={**os.environ, "LABKIT_HOME": home}), limit_s)
        except (TimeoutError, DeadKernelError):
            # Stopped while it waits for a cell, the client takes the kernel for dead: the time tells which.
            if time.perf_counter() >= deadline_s:
                return f"stopped after {limit_s / 60:g} minutes"
            return "its kernel died"
    return None


def _link_recorded(home: Path) -> None:
    """Recorded runs of other machines are looked for beside the store: let them be found there."""
    recorded = default_path().parent / "reference"
    if not recorded.is_dir():
        return
    try:
        (home / "reference").symlink_to(recorded.resolve(), target_is_directory=True)
    except OSError:  # a system where links need a privilege
        import shutil

        shutil.copytree(recorded, home / "reference")


def _insert(notebook: Any, parameters: Mapping[str, str]) -> None:
    import nbformat

    for place, cell in enumerate(notebook.cells):
        if "parameters" not in cell.metadata.get("tags", []):
            continue
        own = [name for name in parameters if re.search(rf"^{name} *=", cell.source, re.M)]
        if own:
            code = "\n".join(f"{name} = {parameters[name]}" for name in own)
            notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(code))
        return


def _check_parameters(parameters: Mapping[str, str]) -> None:
    for name, expression in parameters.items():
        try:
            compile(expression, name, "eval")
        except (SyntaxError, ValueError):
            expression = ""
        if not name.isidentifier() or not expression:
            raise UsageError(
                f'a parameter is NAME=EXPRESSION, such as SOURCE="scenes", not {name}={expression}'
            )


def _failed(notebook: Any) -> str | None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {cell.id!r} failed: {output.ename}: {output.evalue}"[:300]
    return None


def _make_readable(notebook: Any) -> None:
    """Leaves of each output what a page can show by itself."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not _passing(output)]
        for output in cell.outputs:
            if output.output_type in ("display_data", "execute_result"):
                output.data = _readable(output.data)


def _passing(output: Any) -> bool:
    """Whether an output is a progress bar or another widget that shows what goes on, not what came out."""
    data = output.get("data", {})
    text = str(data.get("text/plain", ""))
    return WIDGET in data and (text.startswith(PROGRESS) or bool(re.search(r"\d+%\|", text)))


def _readable(data: Any) -> dict[str, Any]:
    if WIDGET in data:
        return {"text/plain": "(a form or a live view stands here when the notebook is open in JupyterLab)"}
    kept = {kind: data[kind] for kind in SHOWN if kind in data}
    if "text/html" in kept and re.search(r"<(script|iframe|object|embed|link)\b", kept["text/html"], re.I):
        kept.pop("text/html")
    return kept or {"text/plain": "(an output that needs JupyterLab)"}


def _check_packages() -> None:
    import importlib.util

    for package in ("nbclient", "nbconvert"):
        if importlib.util.find_spec(package) is None:
            raise UnavailableError(f"a gallery needs the package {package}; run: pip install {package}")
