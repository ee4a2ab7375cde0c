"""Every notebook runs from top to bottom without a GPU, a camera or a network."""

import asyncio
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from labkit.lessons.exercise import solution

from forked_kernel import use_forked_kernel  # isort: skip

ROOT = Path(__file__).parents[1]
SMALL = {
    "SOURCE": '"scenes"',
    "SIZE": "(160, 128)",
    "FRAMES": "3",
    "ROUNDS": "2",
    "BOXES": "(1, 2, 3)",
    "GROUPS": "(1, 2)",
    "STREAMS": "(2,)",
    "RUNG": '"grouped_cpu"',
    "SECONDS": "1.0",
    "PACED_SECONDS": "0.3",
    "OBJECTS": "2",
    "SCENES": "2",
    "NOISES": "(0,)",
    "CHANGES": '("frame 160x120",)',
    "LAST": '"batched_cpu"',
    "HALF": '("lab_detr",)',
    "MY_RESNET_PREDICTION": "1.1",
}


SHORT = f"""
import sys
from dataclasses import replace
from importlib import import_module

sys.path.append({str(Path(__file__).parent)!r})
import_module("in_process").measure_in_process(setattr)
_plan, _run = import_module("labkit.bench.plan"), import_module("labkit.bench.run")
_plan.QUICK = _run.QUICK = replace(
    _run.QUICK, seconds=0.3, min_frames=4, warm_frames=1, warm_s=0.0, warm_limit_s=1.0
)
_run.QUICK_ROUNDS = _run.QUICK_PAIR = replace(_run.QUICK_ROUNDS, frames=1, processes=1)
"""
"""Runs after the parameters: that a notebook runs is asked here, not how fast anything is."""

LEFT_BEHIND = """
import threading, psutil

kept = [thread.name for thread in threading.enumerate() if thread.name.startswith("labkit")]
kept = [name for name in kept if name != "labkit watches parent"]  # that of the kernel itself
family = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
kept += [each for each in family if "resource_tracker" not in each]
kept += [file.path for file in psutil.Process().open_files() if file.path.startswith("/dev/video")]
print("left behind:", kept or "nothing")
"""


def with_small_parameters(notebook):
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in SMALL.items():
        cell.source = re.sub(
            rf"^{name} = (\[[^]]*\]|.*$)", f"{name} = {value}", cell.source, flags=re.MULTILINE
        )
    return notebook


def run(path, tmp_path, solutions=None):
    notebook = with_small_parameters(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        if cell.id in (solutions or {}):
            cell.source = solutions[cell.id]
    parameters = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(SHORT, id="short"))
    notebook.cells.append(nbformat.v4.new_code_cell(LEFT_BEHIND, id="left-behind"))
    environment = {**os.environ, "LABKIT_HOME": str(tmp_path)}
    client = NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    use_forked_kernel(client)
    asyncio.run(client.async_execute(env=environment))
    return notebook


def text_of(notebook, cell_id):
    cell = next(c for c in notebook.cells if c.id == cell_id)
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
    )


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXERCISE = re.compile(r'check_(\w+)\((?:"(\w+)", )?(\w+)\)')


def solved(source):
    """A cell's source with the exercise's solution in place of what stands before its check."""
    named = list(EXERCISE.finditer(source))
    assert named, f"no check in the exercise {source!r}"
    check = source[source.rfind("\n", 0, named[0].start()) + 1 :]
    answers = []
    for match in named:
        found = solution(match[2] or match[1])
        answers.append(f'{match[3]} = r"""{found.text}"""' if "__global__" in found.text else found.text)
    return "\n\n".join([*answers, check])


@pytest.mark.notebook
@pytest.mark.timeout(900)  # a whole walk; each cell has a limit of its own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_its_exercises_can_be_solved(path, tmp_path):
    solutions = {
        cell.id: solved(cell.source)
        for cell in nbformat.read(path, as_version=4).cells
        if "exercise" in cell.metadata.get("tags", [])
    }
    notebook = run(path, tmp_path, solutions)
    for cell_id in solutions:
        assert "Right" in text_of(notebook, cell_id), f"the solution of {cell_id} is not accepted"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
    assert text_of(notebook, "left-behind").strip() == "left behind: nothing"
    there = {each.name for each in path.parent.iterdir() if each.suffix != ".ipynb"}
    assert there <= {"glossary.md", ".ipynb_checkpoints"}
