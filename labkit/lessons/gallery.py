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
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from labkit import __version__
from labkit.core.errors import UnavailableError, UsageError
from labkit.core.files import results_folder, write_atomic

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
    folder = Path(folder) if folder else results_folder() / "gallery"
    done = []
    for path in found:
        progress(f"{path.name} ...")
        executed = execute(path, minutes * 60, parameters)
        done.append(executed)
        progress(f"{path.name}: {executed.trouble or 'complete'} ({executed.seconds:.0f} s)")
        names = [each.stem for each in found]
        write_atomic(folder / f"{path.stem}.html", page(executed, names))
    return Gallery(write_atomic(folder / "index.html", index(done)), tuple(done))


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
    recorded = results_folder() / "reference"
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


NO_ALT = "No description has been provided for this image"
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --faint: #5f6368; --line: #dadce0;
  --cell: #f6f7f9; --doubt: #8a4b00; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e8eaed; --faint: #a6abb2;
  --line: #3c4043; --cell: #1f2227; --doubt: #ffb95c; --link: #8ab4f8; } }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); } a.anchor-link { display: none; }
nav, footer, .lead { color: var(--faint); font-size: .9rem; } nav a { margin-right: 1rem; }
pre { overflow-x: auto; font: .82rem/1.45 ui-monospace, monospace; margin: 0; white-space: pre; }
.input .highlight pre { background: var(--cell); border-left: 3px solid var(--link); padding: .6rem .8rem; }
.output_area { margin: .5rem 0; } .output_area img { display: block; margin: .5rem 0; }
.output_area pre { padding: .2rem .8rem; color: var(--ink); white-space: pre-wrap !important; }
.output_area span[style*="#808000"] { color: var(--doubt) !important; }
.prompt { display: none; } .cell { margin: .8rem 0; }
img, svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto;
  overflow-wrap: normal; }
table, th, td { border: 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
table.dataframe thead th { text-align: left !important; }
table.dataframe td { font-variant-numeric: tabular-nums; }
.doubt { color: var(--doubt); }
ol.notebooks { padding: 0; list-style: none; }
ol.notebooks li { border-top: 1px solid var(--line); padding: 1rem 0; }
ol.notebooks h2 { font-size: 1.15rem; margin: 0; } ol.notebooks img { display: block;
  width: min(100%, 40rem); max-height: 18rem; object-fit: cover; object-position: left top; }
.highlight .c1, .highlight .c { color: var(--faint); } .highlight .s1, .highlight .s2, .highlight .sd {
  color: light-dark(#0a6640, #7ddba8); }
.highlight .k, .highlight .kn, .highlight .ow { color: light-dark(#7b1fa2, #d7a6f5); }
.highlight .mi, .highlight .mf, .highlight .kc { color: light-dark(#b3410e, #ffab80); }
"""


def page(executed: Executed, names: Sequence[str]) -> str:
    """One notebook as HTML, with the way to its neighbours.

    Args:
        executed: the notebook.
        names: file names, without their ends, of all pages in order.
    """
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic").from_notebook_node(executed.notebook)
    body = _linked(_described(_inert(body), executed.notebook))
    body = _embedded(body, executed.path.resolve().parent)
    trouble = f'<p class="doubt">{escape(executed.trouble)}</p>' if executed.trouble else ""
    return _document(
        title_of(executed.notebook) or executed.path.stem,
        f"{_neighbours(executed.path.stem, names)}<main>{trouble}{body}</main>",
    )


def index(done: Sequence[Executed]) -> str:
    """The list of all notebooks: title, question, a picture, and whether each ran to its end."""
    rows = "".join(_entry(executed) for executed in done)
    complete = sum(executed.trouble is None for executed in done)
    lead = f"{complete} of {len(done)} notebooks ran to their end; labkit {__version__}, {_machine()}."
    return _document(
        "The notebooks, executed",
        f'<main><h1>The notebooks, executed</h1><p class="lead">{escape(lead)} Every figure in them was '
        f'measured on that machine; quick runs are marked.</p><ol class="notebooks">{rows}</ol></main>',
    )


def title_of(notebook: Any) -> str:
    """The first heading of a notebook; empty if it has none."""
    for cell in notebook.cells:
        found = re.search(r"^# +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if found:
            return found[1].strip()
    return ""


def question_of(notebook: Any) -> str:
    """What stands under a notebook's heading "Question"; empty if it has none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "## Question" in cell.source:
            text = cell.source.split("## Question", 1)[1].strip()
            return re.split(r"\n\s*\n|\n#", text)[0]
    return ""


def _entry(executed: Executed) -> str:
    name = escape(executed.path.stem)
    state = f"ran to its end in {executed.seconds:.0f} s"
    if executed.trouble:
        state = f'<span class="doubt">{escape(executed.trouble)}</span>'
    title = escape(title_of(executed.notebook) or executed.path.stem)
    return (
        f'<li><h2><a href="{name}.html">{title}</a></h2><p>{escape(question_of(executed.notebook))}</p>'
        f'{_picture(executed.notebook)}<p class="lead">{state}</p></li>\n'
    )


def _picture(notebook: Any) -> str:
    """A notebook's picture for the index: the first one under "Look", else the last one."""
    pictures: list[tuple[bool, str]] = []
    looking = False
    for cell in notebook.cells:
        looking = looking or (cell.cell_type == "markdown" and "## Look" in cell.source)
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            found = re.findall(r'<img src="data:image/[^"]+" alt="[^"]*"', html)
            pictures += [(looking, picture) for picture in found]
    chosen = next((picture for look, picture in pictures if look), pictures[-1][1] if pictures else None)
    return f"{chosen}>" if chosen else ""


def _inert(body: str) -> str:
    """Without what would run or load something; code that is shown is escaped and stays."""
    body = re.sub(r"<(script|iframe|object)\b.*?</\1\s*>", "", body, flags=re.I | re.S)
    return re.sub(r"<(script|iframe|object|embed|link|base)\b[^>]*>", "", body, flags=re.I)


def _described(body: str, notebook: Any) -> str:
    """Pictures without words are called what their cell says, in the order of the outputs."""
    words = [
        "output of: " + cell.source.strip().splitlines()[-1]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if _is_bare_picture(output) and cell.source.strip()
    ]
    for text in words:
        body = body.replace(f'alt="{NO_ALT}"', f'alt="{escape(text)}"', 1)
    return body


def _is_bare_picture(output: Any) -> bool:
    data = output.get("data", {})
    return any(kind.startswith("image/") for kind in data) and "text/html" not in data


def _linked(body: str) -> str:
    """Links between notebooks lead to their pages."""
    return re.sub(r'href="([\w.-]+)\.ipynb((?:#[^"]*)?)"', r'href="\1.html\2"', body)


def _embedded(body: str, folder: Path) -> str:
    """Pictures that a text names by file, in the notebook's folder or beside it, become part of the page."""

    def data(found: re.Match[str]) -> str:
        path = (folder / unquote(unescape(found[2]))).resolve()
        kind = guess_type(path.name)[0] or ""
        if not (kind.startswith("image/") and path.is_relative_to(folder.parent) and path.is_file()):
            return found[0]
        return f"{found[1]}data:{kind};base64,{b64encode(path.read_bytes()).decode()}"

    return re.sub(r'(<img\b[^>]*?\bsrc=")([^":]+)', data, body)


def _neighbours(name: str, names: Sequence[str]) -> str:
    place = list(names).index(name)
    links = ['<a href="index.html">all notebooks</a>']
    for other, words in ((place - 1, "before"), (place + 1, "next")):
        if 0 <= other < len(names):
            links.append(f'<a href="{escape(names[other])}.html">{words}: {escape(names[other])}</a>')
    return f"<nav>{''.join(links)}</nav>"


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _machine() -> str:
    from labkit.core.machine import fingerprint, machine_name

    return machine_name(fingerprint())


@dataclass(frozen=True)
class Executed:
    """One notebook after it ran.

    Attributes:
        path: of the notebook.
        notebook: its cells with their outputs, as nbformat has them.
        seconds: how long it took.
        trouble: what went wrong, in a sentence; None if every cell finished.
    """

    path: Path
    notebook: Any
    seconds: float
    trouble: str | None


@dataclass(frozen=True)
class Gallery:
    """The pages that were written.

    Attributes:
        index: the page to open.
        executed: the notebooks, in order.
    """

    index: Path
    executed: tuple[Executed, ...]
