"""What notebook 06 asks: does it cost accuracy?

    python -m labkit.lessons.nb06_accuracy --out results/reference/accuracy

judges every change on clean and on noisy scenes, and writes table, picture and fingerprint; that
takes minutes. With --redraw it only draws the picture of the table that lies there.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.bench import accuracy
from labkit.bench.agreement import Answers
from labkit.bench.worker import Worker
from labkit.core.errors import LabError, ResultsError, UsageError
from labkit.core.files import results_folder, write_atomic
from labkit.core.machine import machine_name
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Detections, Frame, Rung, Size, Workload
from labkit.pipelines.ladder import rung
from labkit.results.ablation import NAMES, AblationRow, Estimate, Loss, Metric, from_csv, sentences, to_csv

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart

SIZE: Size = (640, 480)
NOISES = (0.0, 15.0, 30.0)
TABLE = "accuracy.csv"
MARK = "fingerprint.json"
RECORDED = "reference/accuracy"
PROJECT = Path(__file__).parents[2]
AS_IT_IS = "as it is"
COLUMNS = 100


@dataclass(frozen=True)
class Change:
    """One change of how the small models are run.

    Attributes:
        name: as tables show it.
        about: what exactly is done.
        rung: how they are prepared.
        size: frames are shrunk to this (width, height) before the rung sees them.
        objects: boxes kept per frame.
    """

    name: str
    about: str
    rung: Rung
    size: Size = SIZE
    objects: int = accuracy.OBJECTS


def _smoothed(eps: float) -> Change:
    plain = rung("filter_numba_cpu")
    assert plain.prepare.filter is not None
    step = replace(plain.prepare.filter, eps=eps)
    about = f"guided filter before both networks, radius {step.radius} px, eps {eps:g}; else as it is"
    return Change(f"filter, eps {eps:g}", about, replace(plain, prepare=replace(plain.prepare, filter=step)))


def _shrunk(width: int, height: int) -> Change:
    about = (
        f"each frame, noise included, is shrunk to {width}x{height} by averaging areas before anything "
        "else; detector and crops get no other pixels; boxes are scaled back; else as it is"
    )
    return Change(f"frame {width}x{height}", about, rung("folded_cpu"), size=(width, height))


def _fewer(objects: int) -> Change:
    about = f"the {objects} best boxes are kept and named instead of {accuracy.OBJECTS}; else as it is"
    return Change(f"{objects} boxes", about, rung("folded_cpu"), objects=objects)


CHANGES = (
    Change(AS_IT_IS, "folded_cpu: float32 in torch, frames of 640x480, 16 boxes", rung("folded_cpu")),
    Change("engine, float32", "cpu_engine_fp32: OpenVINO in float32", rung("cpu_engine_fp32")),
    Change("half precision", "cpu_engine_bf16: OpenVINO in bfloat16", rung("cpu_engine_bf16")),
    Change("int8", "cpu_engine_int8: OpenVINO, 8-bit products, the rest bfloat16", rung("cpu_engine_int8")),
    *(_smoothed(eps) for eps in (0.0001, 0.001, 0.01, 0.04)),
    _shrunk(320, 240),
    _shrunk(160, 120),
    _fewer(5),
    _fewer(3),
)


def judge(
    names: Sequence[str] | None = None,
    *,
    scenes: int = 24,
    noises: Sequence[float] = NOISES,
    progress: Callable[[str], None] = lambda line: None,
) -> list[AblationRow]:
    """Judges changes with the lab's small models on scenes that training never saw.

    Args:
        names: of changes, besides "as it is", which is always first; None takes all.
        scenes: number of scenes per strength of noise; 16 and more give intervals.
        noises: standard deviations in grey levels.
        progress: hears one line per change, and which cannot run here.

    Raises:
        UsageError: there is no change of that name, or no scene.
    """
    if scenes < 1 or not noises:
        raise UsageError(f"a change is judged on one scene or more, not {scenes}, of one noise or more")
    frames = {noise: accuracy.truth_frames(scenes, SIZE, noise) for noise in map(float, noises)}
    rows: list[AblationRow] = []
    plain: dict[float, Answers] = {}
    for change in _chosen(names):
        reason = unmet_requirement(change.rung.needs)
        if reason is not None:
            progress(f"{change.name} cannot run here: {reason}")
            continue
        progress(change.name)
        answers = _answers(change, frames)
        plain = plain or answers
        rows += [_judged(change, noise, answers[noise], plain[noise], frames[noise]) for noise in frames]
    return rows


def tell(rows: Sequence[AblationRow], metric: Loss = "map") -> None:
    """Prints what each change costs, made from the figures; see `labkit.results.ablation.sentences`."""
    for line in sentences(rows, metric):
        print(textwrap.fill(line, COLUMNS), end="\n\n")


def picture(rows: Sequence[AblationRow], metric: Loss = "map", theme: str = "light") -> Chart:
    """The losses as a figure."""
    from labkit.results.plots.robustness import robustness

    return robustness(rows, metric=metric, theme=theme)


def table(rows: Sequence[AblationRow], metric: Metric = "map") -> pd.DataFrame:
    """One line per change, one column per strength of noise, intervals in brackets."""
    import pandas as pd

    columns: dict[float, dict[str, str]] = {}
    for row in rows:
        columns.setdefault(row.noise, {})[row.change] = str(getattr(row, metric))
    frame = pd.DataFrame({f"noise {noise:g}": cells for noise, cells in sorted(columns.items())})
    frame.index.name = NAMES[metric]
    return frame


def recorded(folder: Path | None = None) -> list[AblationRow]:
    """What was judged on 100 scenes and ships with the project.

    Raises:
        ResultsError: it is not there, or is something else.
    """
    folders = [folder] if folder else [results_folder() / RECORDED, PROJECT / "results" / RECORDED]
    path = next((each / TABLE for each in folders if (each / TABLE).is_file()), folders[0] / TABLE)
    try:
        return from_csv(path.read_text())
    except OSError as error:
        raise ResultsError(
            f"there is no recorded table {path}; to make one: "
            f"python -m labkit.lessons.nb06_accuracy --out {path.parent}"
        ) from error


def write(rows: Sequence[AblationRow], folder: Path) -> list[Path]:
    """Writes table, picture, and the fingerprint of machine and software; returns the files."""
    from labkit.core.machine import fingerprint

    text = json.dumps(fingerprint(), indent=2, default=str, ensure_ascii=False)
    written = [write_atomic(folder / TABLE, to_csv(rows)), write_atomic(folder / MARK, text + "\n")]
    return [*written, *redraw(folder)]


def redraw(folder: Path) -> list[Path]:
    """Draws the picture of the table and fingerprint that lie in a folder; returns the files.

    Raises:
        ResultsError: one of the two is not there, or is something else.
    """
    from labkit.results.plots.robustness import robustness
    from labkit.results.plots.save import save

    rows = recorded(folder)
    try:
        mark = json.loads((folder / MARK).read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{folder / MARK} does not say on what was judged ({error})") from error
    return save(robustness(rows, about=machine_name(mark)), folder / "accuracy")


def _chosen(names: Sequence[str] | None) -> list[Change]:
    known = {change.name: change for change in CHANGES}
    for name in names or ():
        if name not in known:
            raise UsageError(f"there is no change {name!r}; there are {', '.join(known)}")
    wanted = known if names is None else (AS_IT_IS, *names)
    return [change for change in CHANGES if change.name in wanted]


def _answers(change: Change, frames: Mapping[float, Sequence[Frame]]) -> dict[float, Answers]:
    """What the changed networks find on each noise's frames, in px of the frames as they were drawn."""
    seen = {noise: [_resized(frame, change.size) for frame in some] for noise, some in frames.items()}
    workload = replace(accuracy.lab_workload(Workload()), size=change.size, objects=change.objects)
    first = next(iter(seen.values()))[:1]
    with Worker(change.rung, workload, first) as worker:
        found = {noise: accuracy.found_by(worker, some) for noise, some in seen.items()}
    return {
        noise: Answers(change.name, [_scaled(each, SIZE) for each in some], {})
        for noise, some in found.items()
    }


def _resized(frame: Frame, size: Size) -> Frame:
    if frame.size == size:
        return frame
    import cv2

    image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    return Frame(np.ascontiguousarray(image, np.uint8), frame.index, frame.t_s)


def _scaled(found: Detections, size: Size) -> Detections:
    """The same boxes in a frame of another size."""
    if found.frame_size == size:
        return found
    factor = np.tile(np.array(size, np.float32) / np.array(found.frame_size, np.float32), 2)
    xyxy = np.clip(found.xyxy * factor, 0, np.tile(np.array(size, np.float32), 2))
    return replace(found, xyxy=xyxy.astype(np.float32), frame_size=size)


def _judged(
    change: Change, noise: float, own: Answers, plain: Answers, frames: Sequence[Frame]
) -> AblationRow:
    score = accuracy.score(own, frames)
    loss = accuracy.lost(plain, own, frames)
    return AblationRow(
        change.name,
        change.about,
        noise,
        len(frames),
        map_50=_estimate(score, "map_50"),
        map=_estimate(score, "map"),
        top1=_estimate(score, "top1"),
        lost_map_50=Estimate(*loss["map_50"]),  # type: ignore[arg-type]
        lost_map=Estimate(*loss["map"]),  # type: ignore[arg-type]
    )


def _estimate(score: Mapping[str, Any], name: str) -> Estimate:
    low, high = score.get(f"{name}_interval") or (None, None)
    return Estimate(score.get(name, float("nan")), low, high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judges all changes and writes what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m labkit.lessons.nb06_accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=results_folder() / "accuracy", help="folder")
    parser.add_argument("--scenes", type=int, default=accuracy.FULL_SCENES, help="per strength of noise")
    parser.add_argument("--redraw", action="store_true", help="only draw the picture of the table in --out")
    options = parser.parse_args(arguments)
    try:
        if options.redraw:
            print(*redraw(options.out), sep="\n")
            return 0
        rows = judge(scenes=options.scenes, progress=lambda line: print(line, file=sys.stderr))
        written = write(rows, options.out)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    tell(rows)
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
