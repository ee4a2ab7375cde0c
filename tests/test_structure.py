"""The shape of the project: layers, lightness, one list of requirements, notebooks without output."""

import ast
import json
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "labkit"

# room -> layer; a room imports lower layers only, and itself
LAYERS = {
    "types": 0, "records": 0, "stats": 0, "errors": 0, "trace": 0, "needs": 0, "files": 0, "busy": 0,
    "forecasts": 0, "overlap": 0, "pools": 0, "reporter": 0, "judged": 0,
    "sources": 1, "preprocess": 1, "filters": 1, "draw": 1,
    "models": 2,
    "pipelines": 3,
    "measure": 4, "results": 4, "plots": 4, "live": 4, "learn": 4,
    "profiling": 5, "exhibits": 5, "predicting": 5, "gallery": 5,
    "bench": 5, "doctor": 5, "report": 5, "reference": 6,
    "filter_race": 5, "live_speed": 5,
    "fleet": 6, "museum": 6, "filter_story": 6, "stream_story": 6,
    "accuracy_story": 6,
    "cli": 7, "fleet_story": 7, "lesson": 8,
}  # fmt: skip


def rooms():
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("labkit."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "labkit":
            yield from (alias.name for alias in node.names if (PACKAGE / alias.name).exists()
                        or (PACKAGE / f"{alias.name}.py").exists())  # fmt: skip
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("labkit."))


def test_every_room_has_a_layer():
    assert {room_of(path) for path in rooms()} <= set(LAYERS)


@pytest.mark.parametrize("path", rooms(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_lower_layers(path):
    room = room_of(path)
    for other in imported_rooms(path):
        allowed = other == room or LAYERS[other] < LAYERS[room] or LAYERS[other] == LAYERS[room] == 0
        assert allowed, f"{room} (layer {LAYERS[room]}) imports {other} (layer {LAYERS[other]})"


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
        assert len(source.splitlines()) <= 12, f"a cell of {len(source.splitlines())} lines"
        for word in ("class ", "perf_counter", "synchronize(", "time.time"):
            assert word not in source, f"{word!r} belongs into the package"
