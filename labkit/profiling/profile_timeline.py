"""A few frames on one time axis: what the host did, when it read or waited, what the GPU did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.core.errors import UsageError
from labkit.profiling.capture import Capture, GpuWork, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labkit.results.plots.style import Chart

LABEL_SHARE = 0.012  # of the axis per character: a bar narrower than its name stays without it
BAR = 0.76
EDGE_PT, EDGE_SHARE = 0.4, 0.006


@dataclass
class Track:
    """One row of the picture: bars with names, or moments."""

    label: str
    bars: list[tuple[int, int, str]] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)


def timeline(capture: Capture, *, frames: int = 2, around: str | None = None) -> Chart:
    """Draws the first frames of a capture, or one range of it.

    Args:
        capture: what was seen.
        frames: how many frames from the first.
        around: draw only the first range of this name instead, from its start to its end.

    Raises:
        UsageError: there is no range to draw.
    """
    from matplotlib.patches import Patch

    from labkit.results.plots.style import as_caption, legend_above, set_rows, sheet, shortened

    start, stop = _window(capture, frames, around)
    tracks = tracks_of(capture, start, stop)
    title = f"Inside the first {around}" if around else f"Timeline of {_frames(capture, frames)}"
    with sheet(title, 1.1 * len(tracks) + 0.5, as_caption(_caption(capture))) as (chart, axes):
        colours = _colours(tracks)
        for row, track in enumerate(tracks):
            _draw(axes, row, track, colours, start, stop)
        set_rows(axes, [shortened(track.label, 26) for track in tracks])
        axes.set_xlim(0, (stop - start) / 1e6)
        axes.set_xlabel("time (ms)")
        handles: list[Any] = [Patch(color=colour, label=name) for name, colour in colours.items()]
        legend_above(axes, handles[:8], columns=min(8, len(handles)))
        chart.alt_text = alt_text(capture, tracks, start, stop)
    return chart


def tracks_of(capture: Capture, start_ns: int, stop_ns: int) -> list[Track]:
    """Rows of the picture with what lies between two moments, cut off at them."""
    tracks = _host_tracks(_cut(capture.ranges, start_ns, stop_ns))
    reads = [r.at_ns for r in capture.reads if start_ns <= r.at_ns <= stop_ns]
    tracks.append(Track(f"host reads ({len(reads)})", moments=reads))
    if not capture.has_gpu:
        return tracks
    waits = _cut(capture.waits, start_ns, stop_ns)
    tracks.append(Track("host waits", [(w.start_ns, w.stop_ns, "waiting") for w in waits]))
    return tracks + _gpu_tracks(_cut(capture.gpu, start_ns, stop_ns))


def alt_text(capture: Capture, tracks: Sequence[Track], start_ns: int, stop_ns: int) -> str:
    """The picture in words: each row with its names, how often, and their time."""
    parts = []
    for track in tracks:
        sums: dict[str, tuple[int, int]] = {}
        for start, stop, name in track.bars:
            count, total = sums.get(name, (0, 0))
            sums[name] = (count + 1, total + stop - start)
        words = [f"{name} {count} times, {total / 1e6:.3g} ms" for name, (count, total) in sums.items()]
        parts.append(f"{track.label}: {', '.join(words)}" if words else track.label)
    return f"{(stop_ns - start_ns) / 1e6:.3g} ms seen by {capture.profiler}. " + "; ".join(parts) + "."


def _window(capture: Capture, frames: int, around: str | None) -> tuple[int, int]:
    if not capture.ranges:
        raise UsageError("there is no range to draw: nothing with labkit's ranges ran in the watched code")
    if frames < 1:
        raise UsageError(f"a timeline has one frame or more, not {frames}")
    if around is None:
        return capture.first_frames(frames)
    chosen = next((r for r in capture.ranges if r.name == around), None)
    if chosen is None:
        raise UsageError(f"no range named {around!r}; there are {', '.join(capture.counts())}")
    return chosen.start_ns, chosen.stop_ns


def _cut(things: Sequence[Any], start_ns: int, stop_ns: int) -> list[Any]:
    return [t for t in things if t.stop_ns > start_ns and t.start_ns < stop_ns]


def _host_tracks(ranges: Sequence[Range]) -> list[Track]:
    """Ranges below one another where they nest or run at the same time; none overlap in a row."""
    tracks: list[Track] = []
    for each in sorted(ranges, key=lambda r: (r.start_ns, -r.stop_ns)):
        free = next((track for track in tracks if track.bars[-1][1] <= each.start_ns), None)
        if free is None:
            free = Track("host" if not tracks else f"host, within or beside {len(tracks)}")
            tracks.append(free)
        free.bars.append((each.start_ns, each.stop_ns, each.name))
    return tracks


def _gpu_tracks(work: Sequence[GpuWork]) -> list[Track]:
    tracks: dict[tuple[int, bool], Track] = {}
    for each in work:
        computing = each.kind == "kernel"
        label = f"stream {each.stream} {'kernels' if computing else 'copies'}"
        track = tracks.setdefault((each.stream, computing), Track(label))
        track.bars.append((each.start_ns, each.stop_ns, _group(each)))
    return [tracks[key] for key in sorted(tracks, key=lambda k: (k[0], not k[1]))]


def _group(work: GpuWork) -> str:
    """Kernels are many: one colour for all, and one for each direction of copies."""
    if work.kind != "copy":
        return work.kind
    name = (
        work.name.lower()
        .replace("-", " ")
        .replace("memcpy htod", "host to")
        .replace("memcpy dtoh", "to host")
    )
    return "copy to GPU" if "host to" in name else "copy to host" if "to host" in name else "copy on GPU"


def _colours(tracks: Sequence[Track]) -> dict[str, str]:
    from labkit.results.plots.style import COLOURS

    names = dict.fromkeys(name for track in tracks for _, _, name in track.bars)
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _draw(axes: Axes, row: int, track: Track, colours: dict[str, str], start_ns: int, stop_ns: int) -> None:
    from labkit.results.plots.style import INK, PAPER, ink_on

    whole_ms = (stop_ns - start_ns) / 1e6
    for name, colour in colours.items():
        spans = [((a - start_ns) / 1e6, (b - a) / 1e6) for a, b, n in track.bars if n == name]
        # An edge of paper parts neighbours; around the narrowest bars it would leave nothing of them.
        edges = [PAPER if width > EDGE_SHARE * whole_ms else colour for _, width in spans]
        if spans:
            axes.broken_barh(
                spans, (row - BAR / 2, BAR), facecolor=colour, edgecolors=edges, linewidth=EDGE_PT
            )
    for a, b, name in track.bars:
        left, right = max(a, start_ns), min(b, stop_ns)
        if (right - left) / 1e6 > LABEL_SHARE * whole_ms * (len(name) + 1):
            middle = ((left + right) / 2 - start_ns) / 1e6
            axes.text(middle, row, name, ha="center", va="center", fontsize=8.5, color=ink_on(colours[name]))
    moments_ms = [(at - start_ns) / 1e6 for at in track.moments]
    axes.vlines(moments_ms, row - BAR / 2, row + BAR / 2, color=INK, linewidth=0.6)


def _frames(capture: Capture, frames: int) -> str:
    shown = min(frames, capture.n_frames)
    return f"the first {shown} of {capture.n_frames} frames" if shown > 1 else "the first frame"


def _caption(capture: Capture) -> list[str]:
    parts = [f"seen by {capture.profiler}, whose own cost is in the times"]
    parts += ["reads: a tensor's value taken by the host"]
    parts += [] if capture.has_gpu else ["no GPU here, so nothing waits for one"]
    return parts
