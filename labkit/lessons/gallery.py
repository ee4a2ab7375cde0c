"""Gallery of executed notebooks: pages that can be read anywhere, and copies for the repository.

A page has no script and needs no network; a copy is the notebook with its outputs, pictures small,
and the hash of the cells that it was made from. Once the project has a public address, a copy also has
a badge that opens it on a hosted notebook service, and a cell that installs the lab there.

Each notebook runs in a kernel of its own, one after the other, for a bounded time. What it
stores lands in a scratch folder, so that a gallery leaves no predictions or runs behind.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import json
import os
import re
import sys
import time
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from html import escape, unescape
from importlib.util import find_spec
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from labkit import __version__
from labkit.core.errors import UnavailableError, UsageError
from labkit.core.files import results_folder, write_atomic
from labkit.core.machine import fingerprint, machine_name
from labkit.core.read_json import read_json
from labkit.core.scratch import scratch_folder
from labkit.sources.spec import is_address, redact

MINUTES = 15.0
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = ("HBox(", "Output(", "FloatProgress(", "IntProgress(")
SHOWN = ("text/html", "image/png", "image/svg+xml", "image/jpeg", "text/markdown", "text/plain")


@dataclass(frozen=True)
class Executed:
    """One notebook after it ran.

    Attributes:
        path: of the notebook.
        notebook: its cells with their outputs, as nbformat has them.
        seconds: duration.
        trouble: what went wrong, in a sentence; None if every cell finished.
    """

    path: Path
    notebook: Any
    seconds: float
    trouble: str | None


@dataclass(frozen=True)
class Gallery:
    """Pages that were written.

    Attributes:
        index: the page to open.
        executed: the notebooks, in order.
    """

    index: Path
    executed: tuple[Executed, ...]


def write_gallery(
    notebooks: Sequence[Path] | None = None,
    folder: Path | None = None,
    *,
    minutes: float = MINUTES,
    parameters: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """Execute notebooks; write a page and a copy with outputs of each, and an index.

    Args:
        notebooks: default: all of the folder `notebooks`, in order.
        folder: where the pages go; default: `gallery` beside the results.
        minutes: limit for one notebook; it is then stopped, and its page says so.
        parameters: name -> Python expression, set after a notebook's parameters cell.
        progress: called with one line per notebook.

    Raises:
        UsageError: there is no notebook, or a parameter is no name and expression.
        UnavailableError: a package that executes or converts notebooks is missing.
        ResultsError: a page cannot be written.
    """
    for package in ("nbclient", "nbconvert", "jinja2"):
        if find_spec(package) is None:
            raise UnavailableError(f"a gallery needs the package {package}; run: pip install {package}")
    found = _notebooks(notebooks)
    if not minutes > 0:
        raise UsageError(f"minutes is more than 0, not {minutes}")
    for name, expression in (parameters or {}).items():
        try:
            compile(expression, name, "eval")
        except (SyntaxError, ValueError):
            expression = ""
        if not (name.isidentifier() and expression):
            raise UsageError(f'a parameter is NAME=EXPRESSION, such as SOURCE="scenes"; {name!r} is none')
        for text in _texts_in(expression):
            if is_address(text, doubtful=True) and (shown := redact(text)) != text:
                raise UsageError(f"the pages show {name}, and {shown} may hold a password; leave it out")
    folder = Path(folder) if folder else _default_folder()
    done = []
    for path in found:
        progress(f"{path.name} ...")
        executed = execute(path, minutes * 60, parameters)
        done.append(executed)
        progress(f"{path.name}: {executed.trouble or 'complete'} ({executed.seconds:.0f} s)")
        names = [each.stem for each in found]
        write_atomic(folder / f"{path.stem}.html", page(executed, names))
        write_atomic(folder / path.name, copy_with_outputs(executed))
    return Gallery(write_atomic(folder / "index.html", index(done)), tuple(done))


def _texts_in(expression: str) -> list[str]:
    nodes = ast.walk(ast.parse(expression.strip(), mode="eval"))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _notebooks(named: Sequence[Path] | None) -> list[Path]:
    """The named notebooks, else all of the folder `notebooks` in order."""
    found = [Path(path) for path in named] if named else sorted(Path("notebooks").glob("*.ipynb"))
    if not found or not all(path.is_file() for path in found):
        missing = next((str(path) for path in found if not path.is_file()), "notebooks/*.ipynb")
        raise UsageError(
            f"there is no notebook {missing}; run this in the project's folder, or name notebooks"
        )
    return found


def _default_folder() -> Path:
    return results_folder() / "gallery"


def execute(path: Path, limit_s: float, parameters: Mapping[str, str] | None = None) -> Executed:
    """Run a notebook from top to bottom; cells after one that fails are run too.

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
    _say_whence(notebook, path.name, f"{machine_name(fingerprint())}, {time.strftime('%Y-%m-%d')}")
    return Executed(path, notebook, time.perf_counter() - began, trouble)


async def _run(notebook: Any, path: Path, limit_s: float) -> str | None:
    """Execute in place; returns the reason if not every cell was run."""
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    with scratch_folder("gallery") as home:
        client = NotebookClient(
            notebook,
            timeout=None,
            allow_errors=True,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        deadline_s = time.perf_counter() + limit_s
        try:
            await asyncio.wait_for(
                client.async_execute(env={**os.environ, "LABKIT_HOME": str(home)}), limit_s
            )
        except (TimeoutError, DeadKernelError):
            # Stopped while it waits for a cell, the client takes the kernel for dead: the time tells which.
            if time.perf_counter() >= deadline_s:
                return f"stopped after {limit_s / 60:g} minutes"
            return "its kernel died"
    return None


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


def _failed(notebook: Any) -> str | None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {cell.id!r} failed: {output.ename}: {output.evalue}"[:300]
    return None


def _make_readable(notebook: Any) -> None:
    """Keep of each output what a page can show by itself."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        for output in cell.outputs:
            if output.output_type in ("display_data", "execute_result"):
                output.data = _readable(output.data)


WHENCE = re.compile(r"the results below are of (.+, \d{4}-\d\d-\d\d)\.")


def _say_whence(notebook: Any, name: str, whence: str) -> None:
    """Replace the link to these results by one to the notebook, and say on which machine and day it ran."""
    whence = f"[Run it yourself](../../notebooks/{name}): the results below are of {whence}."
    for cell in notebook.cells:
        cell.source = cell.source.replace(f"[Read it with results](../results/gallery/{name}).", whence)
        cell.source = cell.source.replace("](glossary.md)", "](../../notebooks/glossary.md)")  # no copy of it
        cell.source = cell.source.replace("](../results/", "](../")


def _is_progress(output: Any) -> bool:
    """True for what shows progress and no result: a widget, or the blank that a finished bar leaves."""
    data = output.get("data", {})
    text = "".join(data.get("text/plain", ""))
    if "text/html" in data and not text and not re.sub(r"</?pre[^>]*>|\s", "", "".join(data["text/html"])):
        return True
    return WIDGET in data and (text.startswith(PROGRESS) or bool(re.search(r"\d+%\|", text)))


def _readable(data: Any) -> dict[str, Any]:
    if WIDGET in data:
        return {"text/plain": "(a form or a live view stands here when the notebook is open in JupyterLab)"}
    kept = {kind: data[kind] for kind in SHOWN if kind in data}
    if "text/html" in kept and re.search(r"<(script|iframe|object|embed|link)\b", kept["text/html"], re.I):
        kept.pop("text/html")
    return kept or {"text/plain": "(an output that needs JupyterLab)"}


def cells_sha256(path: Path) -> str:
    """Hash of a notebook's cells without their outputs."""
    cells = read_json(path)["cells"]
    parts = [[cell["id"], cell["cell_type"], "".join(cell["source"])] for cell in cells]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def copy_with_outputs(executed: Executed) -> str:
    """The executed notebook as JSON for a viewer that runs nothing: pictures small, folders nameless."""
    import nbformat

    notebook = deepcopy(executed.notebook)
    notebook.metadata["labkit"] = {
        "source_sha256": cells_sha256(executed.path),
        "machine": machine_name(fingerprint()),
    }
    add_badge(notebook, executed.path)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of each cell: they would change with every run
        if cell.cell_type == "code":
            cell.outputs = [part for output in cell.outputs for part in _parts(output)]
    text = str(nbformat.writes(notebook)) + "\n"
    for folder, name in ((sys.prefix, ".venv"), (str(executed.path.resolve().parent.parent), ".")):
        text = text.replace(folder, name)
    return SCRATCH.sub(lambda found: "results" if found[1] else "cell", text)


def renew_text(notebooks: Sequence[Path] | None = None, folder: Path | None = None) -> list[Path]:
    """Take the text of notebooks over into their copies, whose outputs stay; runs nothing.

    Args:
        notebooks, folder: as in `write_gallery`.

    Returns:
        The copies.

    Raises:
        UsageError: there is no notebook, no copy of it, or one that was made from other code.
    """
    folder = Path(folder) if folder else _default_folder()
    return [_renewed(path, folder / path.name) for path in _notebooks(notebooks)]


def _renewed(path: Path, place: Path) -> Path:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    copy = nbformat.read(place, as_version=4) if place.is_file() else nbformat.v4.new_notebook()
    done = [cell for cell in copy.cells if cell.cell_type == "code" and cell.id != INSTALL_ID]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    whence = WHENCE.search("".join(cell.source for cell in copy.cells))
    if whence is None or [(c.id, c.source) for c in code] != [(c.id, c.source) for c in done]:
        raise UsageError(f"{place} was not made from the code of {path}; run: labkit gallery {path}")
    for cell, as_run in zip(code, done, strict=True):
        cell.outputs, cell.execution_count = as_run.outputs, as_run.execution_count
    _say_whence(notebook, path.name, whence[1])
    notebook.metadata = copy.metadata
    notebook.metadata["labkit"]["source_sha256"] = cells_sha256(path)
    add_badge(notebook, path)
    return write_atomic(place, f"{nbformat.writes(notebook)}\n")


INSTALL_ID = "hosted-install"
INSTALL = """# On a hosted notebook service: installs the lab there, and says whether there is a GPU.
from importlib.util import find_spec

if find_spec("labkit") is None:
    %pip install --quiet "labkit[engines,scale] @ git+{address}"

import torch

if torch.cuda.is_available():
    print(torch.cuda.get_device_name())
else:
    print("No GPU here: choose one in the menu (Runtime, Change runtime type), or go on without.")"""


def add_badge(notebook: Any, path: Path) -> None:
    """Put a badge and a cell that installs the lab before all others, if the project has an address.

    Args:
        notebook: cells with their outputs, as nbformat has them; changed in place.
        path: of the notebook, in a folder of the project.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell

    address = repository(path.resolve().parent.parent)
    if address is None:
        return
    here = f"{address.removeprefix('https://github.com/')}/blob/main/results/gallery/{path.name}"
    service = "https://colab.research.google.com"
    badge = f"[![Open in Colab]({service}/assets/colab-badge.svg)]({service}/github/{here})"
    install = new_code_cell(INSTALL.format(address=address), id=INSTALL_ID)
    notebook.cells[:0] = [new_markdown_cell(badge, id="hosted-badge"), install]


def repository(project: Path) -> str | None:
    """The project's public address on GitHub as pyproject.toml has it; None as long as there is none."""
    try:
        settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    address = str(settings.get("project", {}).get("urls", {}).get("repository", ""))
    return address if re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address) else None


SCRATCH = re.compile(r"/[\w./-]*/(?:(labkit-gallery-[\w-]+)|ipykernel_\d+/\d+)")
"""A folder that is gone: that of the results, or that in which a cell pretends to be a file."""
PICTURE = re.compile(r'(<img\b[^>]*\bsrc="data:image/\w+;base64,[^"]+"[^>]*>)')


def _parts(output: Any) -> list[Any]:
    """An output with its pictures small; those in HTML as outputs of their own, since viewers drop them."""
    from nbformat.v4 import new_output

    if "data" not in output:
        return [output]
    parts = PICTURE.split(output.data.get("text/html", ""))
    if len(parts) == 1:
        small = _small(output.data.pop("image/png", ""))
        output.data = {**output.data, **small}
        return [output]
    found = []
    for part in parts:
        words = re.sub(r"<style>.*?</style>|<[^>]+>", "", part, flags=re.S).strip()
        alt, src = (re.search(rf'{name}="([^"]*)"', part) for name in ("alt", "src"))
        if src:
            picture = _small(src[1].partition(",")[2])
            data = {**picture, "text/plain": unescape(alt[1]) if alt else "a picture"}
        else:
            data = {"text/html": part, "text/plain": unescape(words)}
        if words or src:
            found.append(new_output("display_data", data))
    return found


def _small(encoded: str) -> dict[str, str]:
    """A picture in base64 by its type, at most 900 px wide: a PNG with 256 colours or a JPEG."""
    from PIL import Image

    if not encoded:
        return {}
    try:
        picture = Image.open(io.BytesIO(b64decode(encoded))).convert("RGB")
    except OSError:
        return {"image/png": encoded}
    picture.thumbnail((900, 2000))
    png, jpeg = io.BytesIO(), io.BytesIO()
    # Not by median cut: it spends its colours on soft edges, and makes one of two that a plot tells apart.
    few = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(png, format="PNG", optimize=True)
    picture.save(jpeg, format="JPEG", quality=85)
    kind, smaller = min(("image/png", png), ("image/jpeg", jpeg), key=lambda each: each[1].tell())
    return {kind: b64encode(smaller.getvalue()).decode()}


NO_ALT = "No description has been provided for this image"


def page(executed: Executed, names: Sequence[str]) -> str:
    """One notebook as HTML, with links to its neighbours.

    Args:
        executed: the notebook.
        names: file names, without their ends, of all pages in order.
    """
    from markupsafe import Markup
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic").from_notebook_node(executed.notebook)
    body = _linked(_described(_inert(body), executed.notebook))
    place = list(names).index(executed.path.stem)
    neighbours = (("before", place - 1), ("next", place + 1))
    return _template().render(
        title=title_of(executed.notebook) or executed.path.stem,
        body=Markup(_embedded(body, executed.path.resolve().parent)),
        trouble=executed.trouble,
        neighbours=[(label, names[i]) for label, i in neighbours if 0 <= i < len(names)],
    )


def index(done: Sequence[Executed]) -> str:
    """Index of all notebooks as HTML: title, question, picture and outcome of each."""
    from markupsafe import Markup

    entries = [
        {
            "name": executed.path.stem,
            "title": title_of(executed.notebook) or executed.path.stem,
            "question": question_of(executed.notebook),
            "picture": Markup(_picture(executed.notebook)),
            "trouble": executed.trouble,
            "seconds": round(executed.seconds),
        }
        for executed in done
    ]
    return _template().render(
        title="The notebooks, executed",
        entries=entries,
        complete=sum(executed.trouble is None for executed in done),
        version=__version__,
        machine=machine_name(fingerprint()),
    )


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("gallery.html")


def title_of(notebook: Any) -> str:
    """The first heading of a notebook; empty if it has none."""
    for cell in notebook.cells:
        found = re.search(r"^# +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if found:
            return found[1].strip()
    return ""


def question_of(notebook: Any) -> str:
    """A notebook's paragraph on what you will build, or the first one under "Question"; else empty."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for before in ("**You will build** ", "## Question"):
                if before in cell.source:
                    text = cell.source.split(before, 1)[1].strip()
                    return re.split(r"\n\s*\n|\n#", text)[0]
    return ""


def _picture(notebook: Any) -> str:
    """Image element for the index: the first picture under "Look", else the last one."""
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
    """Remove elements that would run or load something; code that is shown is escaped and stays."""
    body = re.sub(r"<(script|iframe|object)\b.*?</\1\s*>", "", body, flags=re.I | re.S)
    return re.sub(r"<(script|iframe|object|embed|link|base)\b[^>]*>", "", body, flags=re.I)


def _described(body: str, notebook: Any) -> str:
    """Give pictures without alt text the last line of their cell, in the order of the outputs."""
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
    """Point links between notebooks to their pages."""
    return re.sub(r'href="([\w.-]+)\.ipynb((?:#[^"]*)?)"', r'href="\1.html\2"', body)


def _embedded(body: str, folder: Path) -> str:
    """Embed pictures that a text names by file, in the notebook's folder or beside it."""

    def data(found: re.Match[str]) -> str:
        path = (folder / unquote(unescape(found[2]))).resolve()
        kind = guess_type(path.name)[0] or ""
        if not (kind.startswith("image/") and path.is_relative_to(folder.parent) and path.is_file()):
            return found[0]
        return f"{found[1]}data:{kind};base64,{b64encode(path.read_bytes()).decode()}"

    return re.sub(r'(<img\b[^>]*?\bsrc=")([^":]+)', data, body)
