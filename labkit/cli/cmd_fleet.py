"""`labkit fleet` and `labkit batch`: many streams at once, and folders of recordings, on Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.options import JsonOption, as_keywords, work_options
from labkit.core.errors import EXIT_INTERRUPTED, ResultsError, SourceError, UsageError
from labkit.core.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table

    from labkit.core.types import Rung, Workload
    from labkit.fleet.fleet_plan import Summary
    from labkit.fleet.run_fleet import Fleet
    from labkit.fleet.streams import StreamState

STOP_S = 15.0
"""Longest wait after Ctrl-C for streams to end and parts to be written."""
NAME_COLUMNS = 24
OPTIONAL = ("offered", "p90 ms", "p50 ms", "failed", "dropped")
"""Columns that a narrow terminal does without, the first first."""

RungOption = Annotated[str, typer.Option(help="Rung to run; auto: the best one on this machine.")]
ModelsOption = Annotated[str, typer.Option(help="full, lab, or auto: those whose weights are here.")]
ThresholdOption = Annotated[float, typer.Option(help="Lowest score that is kept.")]
GroupOption = Annotated[int | None, typer.Option(help="Frames per pass, with a rung for groups.")]
AddressOption = Annotated[
    str | None, typer.Option(help="A Ray cluster, HOST:PORT or auto; default: this machine.")
]
EnginesOption = Annotated[
    int, typer.Option(help="Number of engines; each has a GPU, or its share of the cores.")
]


_WORK = work_options(without=("source", "model_set"), objects=10)


@_WORK
def fleet(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, addresses, cameras.")],
    rung: RungOption = "auto",
    model_set: ModelsOption = "auto",
    threshold: ThresholdOption = 0.5,
    fps: Annotated[float | None, typer.Option(help="Rate of recordings; default: their own.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration; default: until all streams end.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for detections, as Parquet.")] = None,
    batch: GroupOption = None,
    deadline_ms: Annotated[
        float, typer.Option(help="Longest wait of a frame for those of other streams.")
    ] = 20.0,
    engines: EnginesOption = 1,
    address: AddressOption = None,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Run a rung on many cameras and recordings at once, until Ctrl-C."""
    from labkit.bench.progress import err, print_lines, print_table
    from labkit.bench.progress import out as screen
    from labkit.fleet.fleet_plan import Plan, with_group

    work = as_keywords(work)
    chosen = with_group(_rung(rung, batch), batch)
    plan = Plan(
        sources=tuple(source),
        rung=chosen,
        workload=_workload(chosen, model_set, threshold, work),
        fps=fps,
        seconds=seconds,
        out=out,
        deadline_s=deadline_ms / 1e3,
        engines=engines,
        timeouts_s=(work["open_timeout_s"], work["read_timeout_s"]),
    )
    plan.streams()  # raises if a rate or time is out of range, before anything starts
    try:
        summary, interrupted = _run(plan, address)
    except KeyboardInterrupt:
        print_lines(["labkit: stopped; no stream was running"], console=err)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        figures = {"fps": summary.fps, "counts": asdict(summary.counts)}
        print(json.dumps({**asdict(summary), **figures}, default=str))
    else:
        print_table(table(summary.streams), OPTIONAL, screen)
        print_lines(describe(summary))
    if interrupted:
        print_lines(["labkit: stopped"], console=err)
        raise typer.Exit(EXIT_INTERRUPTED)
    if all(state.failed for state in summary.streams):
        raise SourceError("every stream failed; the lines above say why")
    if summary.unsaved:
        raise ResultsError("not all detections could be saved; the lines above say why")


def _run(plan: Any, address: str | None) -> tuple[Summary, bool]:
    """Run a fleet with a live table; returns its summary, and True if Ctrl-C ended it."""
    from rich.live import Live

    from labkit.bench.progress import err, print_lines
    from labkit.fleet.cluster import cluster

    with cluster(address):
        from labkit.fleet.run_fleet import Fleet

        with Fleet(plan, report=lambda line: print_lines([line], console=err)) as running:
            try:
                with Live(console=err, auto_refresh=False, transient=True) as live:
                    for states in running.states():
                        live.update(table(states), refresh=True)
                return running.summary(), False
            except KeyboardInterrupt:
                _stop(running)
                return running.summary(), True


def _stop(running: Fleet) -> None:
    """Wait for every stream to end and write its last part; Ctrl-C again skips it."""
    until_s = time.monotonic() + STOP_S
    try:
        running.stop()
        for _ in running.states(every_s=0.2):
            if time.monotonic() > until_s:
                return
    except KeyboardInterrupt:
        return


def table(states: Sequence[StreamState]) -> Table:
    """Format streams as a table of at most 80 columns, with a row for their sum."""
    from rich.markup import escape

    from labkit.bench.progress import plain_table
    from labkit.fleet.streams import Counts
    from labkit.results.format import format_number

    shown = plain_table("stream", "FPS", "p50 ms", "p90 ms", "offered", "done", "dropped", "failed")
    shown.columns[0].max_width = NAME_COLUMNS
    sums, fps = Counts(), 0.0
    for state in states:
        sums, fps = sums + state.counts, fps + (state.fps or 0.0)
        name = f"{state.position} {_short(state.shown, NAME_COLUMNS - 3)}"
        ages = [format_number(age) for age in state.age_ms]
        figures = [str(n) for n in state.counts.row()]
        style = "red" if state.failed else "dim" if state.ended else None
        shown.add_row(escape(printable(name)), format_number(state.fps), *ages, *figures, style=style)
    shown.add_row("all", format_number(fps), "", "", *(str(n) for n in sums.row()), style="bold")
    return shown


def describe(summary: Summary) -> list[str]:
    """Describe how each stream ended, and all frames, in lines."""
    lines = [f"{state.position} {state.shown}: {state.ended or state.note or 'still running'}"
             for state in summary.streams]  # fmt: skip
    counts = summary.counts
    lines.append(
        f"{counts.processed} of {counts.offered} frames in {summary.seconds:.1f} s, "
        f"{summary.fps:.1f} FPS of all streams; {counts.dropped} dropped, {counts.failed} failed"
    )
    restarts = sum(state.restarts for state in summary.streams)
    if restarts:
        lines.append(f"readers or engines were restarted {restarts} times")
    lines += [f"not saved: {text}" for text in summary.unsaved]
    if summary.folder is not None:
        lines.append(f"detections: {summary.folder} ({sum(s.parts for s in summary.streams)} parts)")
    return lines


@_WORK
def batch_command(
    folder: Annotated[Path, typer.Argument(help="Folder of recorded videos, searched below too.")],
    out: Annotated[Path, typer.Option(help="Folder for detections; the same one again resumes.")],
    rung: RungOption = "auto",
    model_set: ModelsOption = "auto",
    threshold: ThresholdOption = 0.5,
    segment: Annotated[int, typer.Option(help="Frames per part.")] = 32,
    batch: GroupOption = None,
    engines: EnginesOption = 1,
    address: AddressOption = None,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Process a folder of recorded videos; a run that was stopped is resumed."""
    from labkit.bench.progress import err, print_lines
    from labkit.fleet.batch.videos import Batch
    from labkit.fleet.fleet_plan import with_group

    work = as_keywords(work)
    chosen = with_group(_rung(rung, batch), batch)
    settings = Batch(
        folder=folder,
        out=out,
        rung=chosen,
        workload=_workload(chosen, model_set, threshold, work),
        segment=segment,
        engines=engines,
        timeouts_s=(work["open_timeout_s"], work["read_timeout_s"]),
    )
    try:
        done = _process(settings, address)
    except KeyboardInterrupt:
        print_lines(["labkit: stopped; what is finished is kept, and the same command resumes"], console=err)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        rate = f", {done.new_frames / done.seconds:.1f} FPS" if done.new_frames and done.seconds > 0 else ""
        print_lines(
            [
                f"{done.frames} frames with {done.boxes} boxes in {done.parts} parts; "
                f"{done.videos} videos finished",
                f"{done.new_frames} of these frames now, in {done.seconds:.1f} s{rate}",
                f"detections: {out}",
            ]
        )
    if done.faults and not done.frames:
        raise SourceError("no video could be processed; the lines above say why")
    if done.unsaved:
        raise ResultsError("not all detections could be saved; once they can be, the same command resumes")


def _process(settings: Any, address: str | None) -> Any:
    """Run a batch with a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from labkit.bench.progress import err, print_lines
    from labkit.core.requirements import fallback
    from labkit.fleet.batch.run_batch import process
    from labkit.fleet.batch.videos import scan_folder
    from labkit.fleet.cluster import cluster

    videos = scan_folder(settings)
    if all(video.finished for video in videos):
        return process(settings, videos)
    if instead := fallback(settings.rung.prepare):
        print_lines([f"{settings.rung.name}: {instead}"], console=err)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar, cluster(address):
        task = bar.add_task("starting", total=1.0)
        done = process(
            settings, videos, lambda share, text: bar.update(task, completed=share, description=text)
        )
    for fault in (*done.faults, *done.unsaved, *done.notes):
        print_lines([fault], console=err, style="yellow")
    return done


def _rung(name: str, group: int | None) -> Rung:
    """The named rung, or the best of this machine that leaves frames unfiltered."""
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import rung as rung_named

    if name != "auto":
        return rung_named(name)
    on_gpu = ["box_kernels_cuda", "graph_cuda"] if group is None else ["grouped_graph_cuda", "grouped_cuda"]
    wanted = map(rung_named, [*on_gpu, "grouped_bf16_cpu"])
    able = [row for row in wanted if unmet_requirement(row.needs) is None]
    return able[0] if able else rung_named("grouped_cpu")


def _workload(rung: Rung, model_set: str, threshold: float, work: Mapping[str, Any]) -> Workload:
    from labkit.core.types import Workload
    from labkit.live.settings import default_model_set
    from labkit.models.weights import models_of

    chosen = {name: value for name, value in work.items() if not name.endswith("_timeout_s")}
    if model_set == "auto" and (work["weights"] != "auto" or work["detector"] or work["classifier"]):
        model_set = "full"  # only that set has a choice of weights and models
    if model_set == "auto":
        model_set = default_model_set([rung.prepare.task])
    if model_set == "lab" and chosen["weights"] not in ("auto", "pretrained"):
        raise UsageError("the lab's own models ship with their weights; leave out --weights")
    workload = Workload(model_set=model_set, threshold=threshold, **chosen)  # type: ignore[arg-type]
    models_of(workload)  # an unknown name is told before anything starts
    return workload


def _short(text: str, columns: int) -> str:
    return text if len(text) <= columns else "..." + text[len(text) - columns + 3 :]
