"""Accuracy lost by each optimisation, for lesson 06.

    python -m labkit.lessons.nb06_accuracy --out results/reference/accuracy

evaluates every change on clean and on noisy scenes, and writes table, plot and fingerprint; that
takes minutes. With --redraw it only plots the table that lies there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labkit.bench import accuracy
from labkit.bench.agreement import Answers, match
from labkit.bench.worker import Worker
from labkit.core.errors import LabError, ResultsError, UsageError
from labkit.core.files import recorded_folder, results_folder, write_atomic
from labkit.core.machine import fingerprint, machine_name
from labkit.core.read_json import read_bytes, read_json
from labkit.core.requirements import fallback, unmet_requirement
from labkit.core.terminal import print_text
from labkit.core.types import Detections, Frame, Rung, Size, Workload
from labkit.models.decode import DetrDecoder
from labkit.models.detectors.catalogue import detectors
from labkit.models.networks import Network, load_network
from labkit.models.preprocess import preprocessor
from labkit.pipelines.ladder import STAGE_6_INT8, rung
from labkit.results.ablation import AblationRow, Estimate, from_csv, sentences, to_csv
from labkit.results.plots.robustness import robustness as plot_losses
from labkit.results.plots.save import save

SIZE: Size = (640, 480)
NOISES = (0.0, 15.0, 30.0)
TABLE = "accuracy.csv"
WAYS_TABLE = "int8.csv"
MOST_TABLE_BYTES = 2**24
FINGERPRINT = "fingerprint.json"
UNCHANGED = "as it is"


@dataclass(frozen=True)
class Change:
    """One change of the way in which the small models are run.

    Attributes:
        name: as tables show it.
        about: description of the change.
        rung: the rung that is run.
        size: frames are shrunk to this (width, height) before the rung sees them.
        objects: boxes kept per frame.
    """

    name: str
    about: str
    rung: Rung
    size: Size = SIZE
    objects: int = accuracy.OBJECTS


PLAIN, FILTER = rung("folded_cpu"), rung("filter_numba_cpu")

MIXED = Change(
    "int8, mixed",
    "cpu_engine_int8_mixed: encoder, decoder and heads in bfloat16",
    rung("cpu_engine_int8_mixed"),
)
"""What came of a search for the parts that 8 bits harm; `WAYS` are the steps of it that can be taken alone.

Beside what these lose, on 200 clean scenes from 100 on (OpenVINO 2026.4, NNCF 3.4), with decoder and heads in
bfloat16 and one more part of the network:

| also in bfloat16                    | points of mAP lost  |
|-------------------------------------|---------------------|
| the stem, or the input projection   | 0.6                 |
| the backbone                        | 0.5 (0.1 to 0.9)    |
| the encoder's self-attention        | 0.4 (0.1 to 0.6)    |
| the encoder's feed-forward layers   | 0.1 (-0.1 to 0.2)   |
| the whole encoder: the rung         | 0.0 (-0.2 to 0.2)   |
| everything                          | -0.1 (-0.3 to 0.2)  |

NNCF's own search, `quantize_with_accuracy_control`, was asked to keep the error of the small detector's
logits within 1.5%: after eight minutes on two cores it was still putting back operators, one or two at a
time with half a minute of ranking between, and after each of the last ones the error was 2.1% to 3.6%. It is
no rung.
"""


def _changes() -> Iterator[Change]:
    yield Change(UNCHANGED, "folded_cpu: float32 in torch, frames of 640x480, 16 boxes", PLAIN)
    yield Change("engine, float32", "cpu_engine_fp32: OpenVINO in float32", rung("cpu_engine_fp32"))
    yield Change("half precision", "cpu_engine_bf16: OpenVINO in bfloat16", rung("cpu_engine_bf16"))
    int8 = "cpu_engine_int8: OpenVINO, 8-bit products, the rest bfloat16"
    yield Change("int8", int8, rung("cpu_engine_int8"))
    yield MIXED
    for eps in (0.0001, 0.001, 0.01, 0.04):
        assert FILTER.prepare.filter is not None
        step = replace(FILTER.prepare.filter, eps=eps)
        about = f"guided filter before both networks, radius {step.radius} px, eps {eps:g}; else as it is"
        filtered = replace(FILTER, prepare=replace(FILTER.prepare, filter=step))
        yield Change(f"filter, eps {eps:g}", about, filtered)
    for width, height in ((320, 240), (160, 120)):
        about = (
            f"each frame, noise included, is shrunk to {width}x{height} by averaging areas before anything "
            "else; detector and crops get no other pixels; boxes are scaled back; else as it is"
        )
        yield Change(f"frame {width}x{height}", about, PLAIN, size=(width, height))
    for n in (5, 3):
        about = f"the {n} best boxes are kept and named instead of {accuracy.OBJECTS}; else as it is"
        yield Change(f"{n} boxes", about, PLAIN, objects=n)


CHANGES = tuple(_changes())


WAYS = tuple(
    Change(each.name, each.about, each)
    for each in (*map(rung, ("cpu_engine_bf16", "cpu_engine_int8", "cpu_engine_int8_mixed")), *STAGE_6_INT8)
)
"""Ways to quantise, and bfloat16."""
UNSEEN = 1000
"""The first scene of those on which no choice of a way was made."""


def run_ablation(
    names: Sequence[str | Change] | None = None,
    *,
    scenes: int = 24,
    noises: Sequence[float] = NOISES,
    first: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[AblationRow]:
    """Evaluate changes with the lab's small models on scenes that training never saw.

    Args:
        names: of `CHANGES`, or changes of your own, besides "as it is", which is always first; None takes
            all of `CHANGES`.
        scenes: number of scenes per strength of noise; 16 and more give intervals.
        noises: standard deviations in grey levels.
        first: number of the first scene; none of them was seen in training.
        progress: called with one line per change, and for each that cannot run here.

    Raises:
        UsageError: there is no change of that name, or no scene.
    """
    if scenes < 1 or not noises:
        raise UsageError(f"an ablation needs at least one scene and one noise, not {scenes} scenes")
    own = tuple(each for each in names or () if isinstance(each, Change))
    names = None if names is None else [each.name if isinstance(each, Change) else each for each in names]
    known = {change.name: change for change in CHANGES + own}
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(f"there is no change {unknown[0]!r}; there are {', '.join(known)}")
    wanted = known if names is None else (UNCHANGED, *names)
    frames = {noise: accuracy.truth_frames(scenes, SIZE, noise, first) for noise in map(float, noises)}
    rows: list[AblationRow] = []
    plain: dict[float, Answers] = {}
    for change in (change for change in known.values() if change.name in wanted):
        reason = unmet_requirement(change.rung.needs)
        if reason is not None:
            progress(f"{change.name} cannot run here: {reason}")
            continue
        if instead := fallback(change.rung.prepare):
            change = replace(change, about=f"{change.about} (here {instead})")
        progress(change.name)
        answers = _answers(change, frames)
        plain = plain or answers
        rows += [_evaluated(change, noise, answers[noise], plain[noise], frames[noise]) for noise in frames]
    return rows


def half_precision(
    models: Sequence[str] | None = None, *, scenes: int = 2, boxes: int = 20, weights: str = "auto"
) -> pd.DataFrame:
    """Effect of half precision on detectors, in torch on the CPU, against float32.

    Detectors that choose their queries among the places of the picture turn a small error into another
    choice: a place that comes out one rank lower meets another learnt query. Those with deformable
    attention also read the picture between its places, with `grid_sample`. In half precision a place is
    known to a sixteenth of a pixel, and PyTorch 2.15 on the CPU reads strided halves from wrong memory: the
    answers are NaN. With that one function in float32 the network survives.

    Args:
        models: names as in `labkit weights`; None takes the lab's small one, DETR and all of the catalogue.
        scenes: pictures that each looks at.
        boxes: best boxes per picture that are looked for again.
        weights: as for `load_network`.

    Returns:
        Per detector and format, and per format with `grid_sample` in float32 where the detector uses it: the
        weights, the relative error of a picture's logits (median, NaN where they are), and the share of the
        best boxes that are found again, with the same label at an IoU of 0.5.

    Raises:
        UsageError: a model is no detector, or there is no scene or no box.
    """
    import torch

    if min(scenes, boxes) < 1:
        raise UsageError(f"one scene and one box or more are needed, not {scenes} and {boxes}")
    frames = accuracy.truth_frames(scenes)
    rows = []
    for model in models or ("lab_detr", "detr_r50", *detectors()):
        network = load_network(model, weights)
        if network.rule is None:
            raise UsageError(f"{model} is a classifier; what is looked at here are a detector's boxes")
        decode = DetrDecoder(network.labels, boxes, 0.0, network.rule)
        inputs = [preprocessor("opencv", network.input)(frame.image) for frame in frames]

        def answers(dtype: torch.dtype, network: Network = network, inputs: list[Any] = inputs) -> list[Any]:
            module = copy.deepcopy(network.module).to(dtype)
            with torch.inference_mode():
                return [tuple(out.float() for out in module(x.to(dtype))) for x in inputs]

        with _sampling_in_float32() as sampled:
            exact = answers(torch.float32)
        halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        ways = [(name, dtype, False) for name, dtype in halves.items()]
        if sampled:
            ways += [(f"{name}, sampling in float32", dtype, True) for name, dtype in halves.items()]
        for name, dtype, in_float32 in ways:
            errors, again = [], []
            with _sampling_in_float32() if in_float32 else nullcontext():
                rounded = answers(dtype)
            for wanted, got in zip(exact, rounded, strict=True):
                finite = all(torch.isfinite(out).all() for out in got)
                errors.append(float((got[0] - wanted[0]).norm() / wanted[0].norm()))
                before = decode(wanted, SIZE)
                again.append(len(match(before, decode(got, SIZE))) / len(before) if finite else 0.0)
            rows.append((model, network.weights.kind, name, np.median(errors), np.mean(again)))
    columns = ["detector", "weights", "format", "error of logits", "found again"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


@contextmanager
def _sampling_in_float32() -> Iterator[list[tuple[int, ...]]]:
    """`grid_sample` in float32, whatever it is given; yields the shapes of what it was given."""
    from torch.nn import functional

    shapes, as_it_is = [], functional.grid_sample

    def in_float32(values: Any, places: Any, **options: Any) -> Any:
        shapes.append(tuple(values.shape))
        return as_it_is(values.float(), places.float(), **options).to(values.dtype)

    functional.grid_sample = in_float32  # type: ignore[assignment]
    try:
        yield shapes
    finally:
        functional.grid_sample = as_it_is


def recorded_ablation(folder: Path | None = None) -> list[AblationRow]:
    """The ablation on 100 scenes that ships with the project.

    Raises:
        ResultsError: it is not there, or is something else.
    """
    path = (folder or recorded_folder("accuracy")) / TABLE
    try:
        return from_csv(read_bytes(path, MOST_TABLE_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"there is no recorded table {path}; to make one: "
            f"python -m labkit.lessons.nb06_accuracy --out {path.parent}"
        ) from error


def write(rows: Sequence[AblationRow], folder: Path) -> list[Path]:
    """Write table, plot, and the fingerprint of machine and software; returns the files."""
    text = json.dumps(fingerprint(), indent=2, default=str, ensure_ascii=False)
    written = [write_atomic(folder / TABLE, to_csv(rows)), write_atomic(folder / FINGERPRINT, text + "\n")]
    return [*written, *redraw(folder)]


def redraw(folder: Path) -> list[Path]:
    """Plot the table that lies in a folder with its fingerprint; returns the files.

    Raises:
        ResultsError: one of the two is not there, or is something else.
    """
    about = machine_name(read_json(folder / FINGERPRINT))
    return save(plot_losses(recorded_ablation(folder), about=about), folder / "accuracy")


def _answers(change: Change, frames: Mapping[float, Sequence[Frame]]) -> dict[float, Answers]:
    """Detections of the changed networks on each noise's frames, in px of the original frames."""
    seen = {noise: [_resized(frame, change.size) for frame in some] for noise, some in frames.items()}
    workload = replace(accuracy.lab_workload(Workload()), size=change.size, objects=change.objects)
    first = next(iter(seen.values()))[:1]
    with Worker(change.rung, workload, first) as worker:
        found = {noise: accuracy.detections_of(worker, some) for noise, some in seen.items()}
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


def _evaluated(
    change: Change, noise: float, own: Answers, plain: Answers, frames: Sequence[Frame]
) -> AblationRow:
    score, loss = accuracy.score(own, frames), accuracy.map_loss(plain, own, frames)
    scores = {name: _estimate(score, name) for name in ("map_50", "map", "top1")}
    lost = {f"lost_{name}": Estimate(*loss[name]) for name in ("map_50", "map")}  # type: ignore[arg-type]
    return AblationRow(change.name, change.about, noise, len(frames), **scores, **lost)


def _estimate(score: Mapping[str, Any], name: str) -> Estimate:
    low, high = score.get(f"{name}_interval") or (None, None)
    return Estimate(score.get(name, float("nan")), low, high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ablation of all changes and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m labkit.lessons.nb06_accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=results_folder() / "accuracy", help="folder")
    parser.add_argument("--scenes", type=int, default=accuracy.FULL_SCENES, help="per strength of noise")
    parser.add_argument("--ways", action="store_true", help="the ways to quantise instead, on clean scenes")
    parser.add_argument("--redraw", action="store_true", help="only plot the table in --out")
    options = parser.parse_args(arguments)
    try:
        if options.redraw:
            print_text(*redraw(options.out), sep="\n")
            return 0
        asked: dict[str, Any] = {"scenes": options.scenes}
        if options.ways:
            asked |= {"names": WAYS, "first": UNSEEN, "noises": (0.0,)}
        rows = run_ablation(**asked, progress=lambda line: print_text(line, file=sys.stderr))
        if options.ways:
            written = [write_atomic(options.out / WAYS_TABLE, to_csv(rows))]
        else:
            written = write(rows, options.out)
    except LabError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    print_text(*sentences(rows), *written, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
