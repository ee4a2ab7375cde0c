"""The shape of the project: layers, lightness, one list of requirements, notebooks without output."""

import ast
import doctest
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "labkit"

# from the ground up; a room imports the rooms before it, and itself
ROOMS = [
    "core",
    "sources",
    "filters",
    "models",
    "pipelines",
    "results",
    "bench",
    "profiling",
    "live",
    "fleet",
    "practice",
    "lessons",
    "cli",
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path):
    """Each module of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path} imports relatively; write the whole name")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "labkit":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "labkit")


ARROWS = {name: set(imported_modules(path)) - {name, "labkit"} for name, path in MODULES.items()}


def test_thirteen_rooms():
    here = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert here == {*ROOMS, "__init__.py", "__main__.py", "py.typed", "LICENSE"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".")])
def test_arrows_point_down(name):
    if name == "labkit.__main__":
        return
    below = ROOMS[: ROOMS.index(name.split(".")[1]) + 1]
    upward = {other for other in ARROWS[name] if other.split(".")[1] not in below}
    assert not upward, f"{name} imports {', '.join(sorted(upward))}, which stand above it"


def test_practice_stands_alone():
    practice = {name: arrows for name, arrows in ARROWS.items() if name.startswith("labkit.practice")}
    below = {other.split(".")[1] for arrows in practice.values() for other in arrows}
    assert below <= {"practice", "core", "filters"}, "a learner's own code needs no more of the lab"


def circle_through(arrows):
    """One circle of imports as a list of names, or None."""
    finished, path = set(), []

    def walk(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return None
        path.append(name)
        found = next((circle for other in sorted(arrows.get(name, ())) if (circle := walk(other))), None)
        path.pop()
        finished.add(name)
        return found

    return next((circle for name in sorted(arrows) if (circle := walk(name))), None)


def test_no_circle_of_imports():
    assert circle_through({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_through({"a": {"b", "c"}, "b": {"c"}}) is None
    circle = circle_through(ARROWS)
    assert circle is None, " -> ".join(circle)


def test_each_file_name_stands_once():
    files = [path for path in MODULES.values() if path.stem not in ("__init__", "__main__")]
    names = Counter(path.stem for path in files)
    packages = {path.parent.name for path in MODULES.values() if path.stem == "__init__"}
    assert not {name: count for name, count in names.items() if count > 1}
    assert not packages & set(names), "a file and a package share a name"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=module_name)
def test_packages_import_nothing_when_they_are_imported(path):
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    heavy = [node.module for node in imports if node.module.split(".")[0] == "labkit"]
    assert not heavy, f"{module_name(path)} re-exports from {heavy}"


def test_public_names_stay_functions_when_their_packages_are_imported():
    code = """if True:
    import importlib, pkgutil, types, labkit
    public = {name: getattr(labkit, name) for name in labkit.__all__}
    for package in ("bench", "live", "results", "profiling", "core"):
        importlib.import_module(f"labkit.{package}")
    from labkit.results import store
    import labkit.bench.plan
    assert public == {name: getattr(labkit, name) for name in labkit.__all__}
    assert not any(isinstance(value, types.ModuleType) for value in public.values())
    assert all(value.__doc__ for value in public.values())
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_examples_of_the_public_face_run(in_process, monkeypatch):
    import labkit
    from labkit.bench import run

    monkeypatch.setattr(run, "QUICK_PAIR", replace(run.QUICK_PAIR, turn_s=0.01, processes=1))

    finder = doctest.DocTestFinder(recurse=False)
    ran = 0
    for name in labkit.__all__:
        for example in finder.find(getattr(labkit, name), name, globs={}):
            result = doctest.DocTestRunner().run(example)
            assert not result.failed, name
            ran += result.attempted > 0
    assert ran == len(labkit.__all__)


def test_importing_labkit_is_light():
    code = "import sys, labkit; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "cv2", "transformers", "cupy", "numba", "pandas", "matplotlib", "IPython", "ipywidgets"}
    assert not heavy & set(loaded.split())


def test_environment_yml_names_the_requirements_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    named = next(part["pip"] for part in conda if isinstance(part, dict))
    wanted = list(project["dependencies"])
    for extra in ("gpu", "engines", "accuracy", "scale", "test"):
        wanted += project["optional-dependencies"][extra]
    assert sorted(named) == sorted([*wanted, "-e ."])
    assert f"python{project['requires-python']}" in conda


def test_constraints_pin_and_name_no_address():
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line and "/" not in line and "@" not in line for line in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    requirements = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    for requirement in requirements:
        name = requirement.split(";")[0].split("[")[0]
        name = "".join(name.split(">")[0].split("=")[0].split("<")[0]).strip().lower()
        assert name in names, f"{name} is not pinned"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_thin_and_stripped(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert "parameters" in code[0]["metadata"].get("tags", [])
    for cell in notebook["cells"]:
        assert cell["id"]
    for cell in code:
        source = "".join(cell["source"])
        assert not cell["outputs"], "outputs are not kept in the repository"
        assert cell["execution_count"] is None
        assert len(source.splitlines()) <= 25, f"a cell of {len(source.splitlines())} lines"
        widest = max(source.splitlines(), key=len)
        assert len(widest) <= 106, f"a window of 1280 px cuts off {widest!r}"
        long = re.search(r"print\(.*(check_|sentence|score\()", source)
        assert not long, f"printed sentences are broken inside words: show, not {long and long[0]!r}"


TERMS = (
    "agreement", "closed", "CUDA graph", "event", "host", "kernel", "launch", "logits", "noisy", "occupancy",
    "p50", "paced", "page-locked", "profiler", "rung", "span", "steal", "stream", "warm-up", "~",
)  # fmt: skip


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_explained_where_it_first_appears(term):
    """There it is set off in the sentence that says what it means: bold, slanted or as code."""
    notebooks = [json.loads(path.read_text()) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    word = re.compile(rf"(?<![\w/]){re.escape(term)}", re.IGNORECASE)
    first = next(text for text in ("".join(cell["source"]) for cell in cells) if word.search(text))
    assert re.search(rf"[*`]{re.escape(term)}", first, re.IGNORECASE), first
