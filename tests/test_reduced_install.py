"""Without the optional packages: everything imports or says what is missing, and a rung is measured."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import MAY_BE_MISSING

ROOT = Path(__file__).parents[1]
OWN = ("fleet", "live.fallback", "live.page", "live.placed", "live.widget", "models.engines")
"""Modules that exist for one of these packages alone, and are imported where it is there."""

MODULES = tuple(f"labkit.{name}" for name in OWN)
IMPORT_ALL = f"""
import importlib, pkgutil, labkit
for module in pkgutil.walk_packages(labkit.__path__, "labkit."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        left = error.name.split(".")[0]
        if left not in {MAY_BE_MISSING!r} | {{'tensorrt'}} or not module.name.startswith({MODULES!r}):
            print(module.name, error)
"""

MEASURE = """
import labkit
options = {"size": (160, 128), "model_set": "lab", "quick": True, "seconds": 0.2, "compare": False}
result = labkit.bench("resnet_opencv_cpu", "cpu_engine_fp32", source="scenes", accuracy=True, **options)
print(result.runs[0].rung, result.runs[0].accuracy, result.skipped)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed packages without the optional ones, as links."""
    folder = tmp_path_factory.mktemp("site")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if each.name.split(".")[0].split("-")[0] not in MAY_BE_MISSING and each.suffix != ".pth":
            (folder / each.name).symlink_to(each)
    return folder


def python(site: Path, code: str, home: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(site)])
    environment = {**os.environ, "PYTHONPATH": paths, "LABKIT_HOME": str(home)}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, cwd=ROOT, check=False
    )


@pytest.mark.extended
def test_every_module_imports_or_exists_for_what_is_missing(site: Path, tmp_path: Path) -> None:
    done = python(site, IMPORT_ALL, tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.extended
def test_every_file_of_tests_is_collected_or_says_what_it_needs(site: Path, tmp_path: Path) -> None:
    options = ["-q", "-o", "addopts=-rs --strict-markers", "-p", "no:cacheprovider", "--collect-only"]
    done = python(site, f"import pytest; raise SystemExit(pytest.main({[*options, 'tests']!r}))", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "tests/test_filters.py::test_" in done.stdout
    assert "tests/test_live.py:0: needs ipywidgets" in done.stdout


@pytest.mark.extended
def test_a_rung_is_measured_and_what_is_missing_is_named(site: Path, tmp_path: Path) -> None:
    done = python(site, MEASURE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resnet_opencv_cpu"), done.stdout
    assert "openvino" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["rungs"], ["doctor"], ["results"], ["--help"]])
@pytest.mark.extended
def test_commands_work_without_them(site: Path, tmp_path: Path, command: list[str]) -> None:
    done = python(site, f"from labkit.cli.main import main; raise SystemExit(main({command!r}))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_doctor_says_what_each_extra_gives_and_how_to_get_it(site: Path, tmp_path: Path) -> None:
    done = python(site, "import labkit; print(*labkit.doctor(), sep='\\n')", tmp_path)
    assert done.returncode == 0, done.stderr
    for extra in ("engines", "accuracy", "scale", "supervision"):
        line = next(line for line in done.stdout.splitlines() if f"what='{extra}'" in line)
        assert "state='missing'" in line and "gives " in line and f"pip install 'labkit[{extra}]'" in line
