"""Figures: every number in its place, nothing over anything else, words for those who cannot see."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from records_made_up import made_up_comparison, made_up_run

from labkit.bench import accuracy
from labkit.core.errors import UsageError
from labkit.lessons.image_grid import image_grid
from labkit.results.ceilings import with_ceilings
from labkit.results.plots import labels as answers
from labkit.results.plots import style
from labkit.results.plots.breakdown import latency, throughput, where_time_goes
from labkit.results.plots.by_boxes import cost_of_boxes
from labkit.results.plots.fleet_plots import FleetPoint, fleet_chart
from labkit.results.plots.save import overview, save, save_all, svg_text
from labkit.results.plots.speedup import _Bar, waterfall
from labkit.results.plots.style import Chart
from labkit.results.plots.tradeoffs import share_of_peak, speed_accuracy
from labkit.results.records import Comparison, Run

from conftest import further  # isort: skip

LONG = "a_rung with quite a long name that goes on and on, $x_1$ <b>&"


def ladder(n: int, name: str = "rung") -> list[Run]:
    return [
        made_up_run(f"{name} {k}", period_s=0.02 * 1.2**k, seed=k, agreement=1 - 0.001 * k, n=130)
        for k in range(n)
    ]


def steps(n: int, name: str = "rung") -> list[Comparison]:
    return [
        made_up_comparison(f"{name} {k}", f"{name} {k + 1}", ratio=0.9 + 0.1 * k, seed=k, agrees=k % 4 != 3)
        for k in range(n)
    ]


def axes_of(chart: Chart) -> mpl.axes.Axes:
    (axes,) = chart.axes
    return axes


def lines_with(axes: mpl.axes.Axes, marker: str) -> list[np.ndarray]:
    return [line.get_xydata() for line in axes.lines if line.get_marker() == marker]


def lines_hollow(axes: mpl.axes.Axes) -> list[list[float]]:
    """Points that are drawn hollow, as those of noisy runs are."""
    paper = mpl.colors.to_hex(axes.get_facecolor())
    hollow = [line for line in axes.lines if mpl.colors.to_hex(line.get_markerfacecolor()) == paper]
    return [point.tolist() for line in hollow for point in line.get_xydata()]


def visible_texts(chart: Chart) -> list[Text]:
    axes = axes_of(chart)
    texts = [*chart.texts, *axes.texts, axes.xaxis.label, axes.yaxis.label]
    if axes.get_legend():
        texts += [*axes.get_legend().get_texts(), axes.get_legend().get_title()]
    for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_legible(chart: Chart) -> None:
    """No two texts touch, and all lie on the paper."""
    chart.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible_texts(chart)]
    for name, box in boxes:
        assert chart.bbox.x0 <= box.x0 and box.x1 <= chart.bbox.x1, f"{name!r} leaves the paper sideways"
        assert chart.bbox.y0 <= box.y0 and box.y1 <= chart.bbox.y1, f"{name!r} leaves the paper"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        shared = Bbox.intersection(a, b)
        touching = shared is not None and shared.width > 0.5 and shared.height > 0.5
        assert not touching, f"{one!r} overlaps {other!r}"


@pytest.mark.parametrize("n", [1, 20, *further(2, 7)])
@pytest.mark.parametrize("name", ["r", LONG])
def test_no_text_overlaps_another_or_leaves_the_paper(n: int, name: str) -> None:
    for _, chart in overview(ladder(n, name), steps(n, name)):
        assert_legible(chart)


def test_a_legibility_check_sees_an_overlap() -> None:
    chart = throughput(ladder(2))
    axes_of(chart).annotate("over", (50, 0))
    axes_of(chart).annotate("over", (50, 0))
    with pytest.raises(AssertionError, match="overlaps"):
        assert_legible(chart)


def test_throughput_shows_fps_and_interval() -> None:
    runs = ladder(3)
    axes = axes_of(throughput(runs))
    for row, (run, point, interval) in enumerate(
        zip(runs, lines_with(axes, "o"), lines_with(axes, "|"), strict=True)
    ):
        assert point.tolist() == [[run.fps, row]]
        assert interval.tolist() == [[run.fps_interval[0], row], [run.fps_interval[1], row]]
    assert axes.get_xlabel() == "throughput (frames per second)"
    assert axes.get_xlim()[0] == 0


def test_throughput_of_few_frames_has_no_interval() -> None:
    chart = throughput([made_up_run(n=3)])
    assert lines_with(axes_of(chart), "|") == []
    assert "interval: too few frames" in chart.alt_text


def test_latency_marks_a_percentile_only_with_frames_enough() -> None:
    runs = [made_up_run("few", n=40), made_up_run("many", n=700)]
    axes = axes_of(latency(runs))
    assert [len(lines_with(axes, marker)) for marker in "o^s"] == [2, 1, 1]
    (p99,) = lines_with(axes, "s")
    assert p99.tolist() == [[pytest.approx(np.percentile(runs[1].latency_s, 99) * 1e3), 1]]
    assert "unknown (too few frames)" in latency(runs).alt_text


def test_spans_and_the_rest_add_up_to_the_mean_latency() -> None:
    run = made_up_run()
    chart = where_time_goes([run, made_up_run("none", spans_s={})])
    widths = [bar.get_width() for bar in axes_of(chart).patches]
    first = widths[0::2]
    assert sum(first) == pytest.approx(run.latency_s.mean() * 1e3)
    assert first[1] == pytest.approx(run.spans_s["infer"].mean() * 1e3)
    assert first[3] == pytest.approx(0.05 * run.latency_s.mean() * 1e3)
    labels = [text.get_text() for text in axes_of(chart).get_legend().get_texts()]
    assert labels == ["preprocess", "infer", "decode", "other"]


def test_overlapping_spans_leave_nothing_over() -> None:
    latency = made_up_run().latency_s
    chart = where_time_goes([made_up_run(spans_s={"infer": 2 * latency})])
    assert [bar.get_width() for bar in axes_of(chart).patches][1] == 0


def test_waterfall_steps_start_where_the_step_before_ended() -> None:
    comparisons = [
        made_up_comparison("a", "b", ratio=1.5),
        made_up_comparison("b", "c", ratio=2.0, agrees=False),
        made_up_comparison("x", "y", ratio=0.8),
        made_up_comparison("c", "d", ratio=1.2),
    ]
    first, second, third, fourth = axes_of(waterfall(comparisons)).patches
    assert first.get_x() == 1
    assert first.get_width() == pytest.approx(comparisons[0].ratio - 1)
    assert second.get_x() == pytest.approx(comparisons[0].ratio)
    assert second.get_x() + second.get_width() == pytest.approx(comparisons[0].ratio * comparisons[1].ratio)
    assert (first.get_hatch(), second.get_hatch()) == (None, "///")
    assert third.get_x() == 1
    assert third.get_x() + third.get_width() == pytest.approx(comparisons[2].ratio)
    assert fourth.get_x() == pytest.approx(second.get_x() + second.get_width())


def parted(name: str, preparation: dict[str, str] | None = None, **spans: float) -> Run:
    """A run of which each part takes that share of 30 ms."""
    latency_s = np.full(100, 0.03)
    settings = {"device": "cpu", "weights": "random", "preparation": preparation or {}}
    return made_up_run(
        name, n=100, latency_s=latency_s, done_s=np.cumsum(latency_s), settings=settings,
        spans_s={part: share * latency_s for part, share in spans.items()},
    )  # fmt: skip


def ceiling_of(step: Comparison, runs: list[Run]) -> tuple[tuple[str, ...], float] | None:
    (limit,) = (each.ceiling for each in with_ceilings([step], runs))
    return limit and (limit.parts, limit.gain)


def test_the_ceiling_of_several_steps_is_that_of_all_their_parts_and_a_guess_gives_way() -> None:
    shares = {"preprocess": 0.1, "detect": 0.6, "crop": 0.1, "classify": 0.1}
    names = ("a", "b", "c")
    a, b, c = (parted(name, preparation={"preprocess": how, "engine": engine}, **shares)
               for name, how, engine in zip(names, "121", "112", strict=True))  # fmt: skip
    runs = [replace(run, settings={**run.settings, "changes": before})
            for run, before in zip((a, b, c), (None, "a", "b"), strict=True)]  # fmt: skip
    assert ceiling_of(made_up_comparison("a", "c"), runs) == (tuple(shares), pytest.approx(10.0))
    assert ceiling_of(made_up_comparison("a", "c"), [runs[0], runs[2]]) is None
    assert ceiling_of(made_up_comparison("c", "a"), runs) is None
    for at in (0, 2):  # where parts overlap, none has a share of the frame
        spans_s = {name: 1.5 * seconds for name, seconds in runs[at].spans_s.items()}
        overlapping = [*runs[:at], replace(runs[at], spans_s=spans_s), *runs[at + 1 :]]
        assert ceiling_of(made_up_comparison("a", "c"), overlapping) is None
    scheduled = [parted("a", infer=0.2, decode=0.1), parted("b", infer=0.1, decode=0.1)]
    assert ceiling_of(made_up_comparison("a", "b", ratio=1.2), scheduled) == (("infer",), pytest.approx(1.25))
    assert ceiling_of(made_up_comparison("a", "b", ratio=1.5), scheduled) is None
    both = [parted("a", infer=0.2, decode=0.2), parted("b", infer=0.1, decode=0.12)]
    assert ceiling_of(made_up_comparison("a", "b"), both) is None  # no part is the change by itself


def test_what_beats_the_peak_is_named_and_not_drawn() -> None:
    runs = [
        made_up_run("sound"),
        made_up_run("beyond", limit={"gflop_per_frame": 50.0, "peak_gflops": 1000.0}),
    ]
    chart = share_of_peak(runs)
    assert len(axes_of(chart).patches) == 1 and axes_of(chart).get_xlim() == (0, 103)
    caption = chart.texts[1].get_text().replace("\n", " ")
    assert "left out, since they beat the measured peak: beyond" in caption
    with pytest.raises(UsageError, match="that it does not beat"):
        share_of_peak(runs[1:])
    nearly = made_up_run(spread=0.3, limit={"gflop_per_frame": 31.0, "peak_gflops": 1000.0})
    (interval,) = lines_with(axes_of(share_of_peak([nearly])), "|")
    assert interval[1, 0] == 100


def test_waterfall_marks_the_ceiling_of_the_part_that_changed_most() -> None:
    runs = [parted("a", preprocess=0.3, infer=0.6), parted("b", preprocess=0.1, infer=0.59)]
    step = made_up_comparison("a", "b", ratio=1.2)
    assert ceiling_of(step, runs) == (("preprocess",), pytest.approx(1 / 0.7))
    chart = waterfall([step], runs=runs)
    axes = axes_of(chart)
    (mark,) = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "--"]
    assert mark[:, 0] == pytest.approx(1 / 0.7)
    assert "ceiling 1.43x (preprocess)" in axes.texts[0].get_text()
    assert "at most 1.43 times, had preprocess cost nothing." in chart.alt_text
    assert any("ceiling" in text.get_text() for text in axes.get_legend().get_texts())
    assert_legible(chart)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"preprocess": "opencv_lut"}, ("preprocess", "crop")),
        ({"engine": "openvino"}, ("detect", "classify")),
        ({"precision": "bf16", "preprocess": "bytes"}, ("preprocess", "detect", "crop", "classify")),
        ({"filter": "numba", "filter_radius": 4}, None),
        ({"device": "cuda"}, None),
    ],
)
def test_the_preparation_says_what_a_change_is_about(change: dict[str, str], parts: tuple[str, ...]) -> None:
    shares = {"preprocess": 0.1, "detect": 0.6, "crop": 0.05, "classify": 0.1}
    plain = {"preprocess": "opencv", "engine": "eager", "precision": "fp32", "device": "cpu"}
    runs = [parted("a", preparation=plain, **shares), parted("b", preparation=plain | change, **shares)]
    gain = parts and pytest.approx(1 / (1 - sum(shares[part] for part in parts)))
    assert ceiling_of(made_up_comparison("a", "b", ratio=1.01), runs) == (parts and (parts, gain))


def test_waterfall_tells_a_far_ceiling_in_words_and_an_unknown_one_not_at_all() -> None:
    step = made_up_comparison("a", "b", ratio=1.2)
    far = waterfall([step], runs=[parted("a", infer=0.95), parted("b", infer=0.5)])
    assert "ceiling 20.0x \N{RIGHTWARDS ARROW} (infer)" in axes_of(far).texts[0].get_text()
    assert axes_of(far).get_xlim()[1] < 5
    overlapping = [parted("a", filter=0.7, infer=0.9), parted("b", infer=0.5)]
    for runs in ([], overlapping, overlapping[1:], [made_up_run("a", spans_s={}), parted("b", infer=1.0)]):
        assert ceiling_of(step, runs) is None
        assert "ceiling" not in axes_of(waterfall([step], runs=runs)).texts[0].get_text()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["infer"], "(infer)"),
        (["detect", "classify"], "(detect, classify)"),
        (["preprocess", "detect", "crop"], "(preprocess and 2 more)"),
    ],
)
def test_a_ceiling_of_many_parts_names_one_and_counts_the_rest(parts: list[str], words: str) -> None:
    step = replace(made_up_comparison(), settings={"ceiling": {"parts": parts, "gain": 3.0}})
    assert f"ceiling 3.00x {words}" in _Bar(step, 1.0).words(9.0)


@pytest.mark.parametrize("n", [1, 6, 12])
def test_a_waterfall_with_ceilings_is_legible(n: int) -> None:
    for _, chart in overview(ladder(n + 1), steps(n)):
        assert_legible(chart)
    shares = {"preprocess": 0.1, "detect": 0.6, "crop": 0.1, "classify": 0.1}
    for engines, how in ((1, "alike"), (n + 1, "another preprocess each")):
        runs = [
            parted(
                f"rung {k}", preparation={"engine": str(k % engines), "preprocess": how + str(k)}, **shares
            )
            for k in range(n + 1)
        ]
        assert_legible(waterfall(steps(n), runs=runs))


def test_speed_accuracy_marks_the_front_and_takes_one_measure_for_all() -> None:
    runs = [
        made_up_run("slow right", period_s=0.1, accuracy={"map_50": 0.9, "map_50_interval": [0.88, 0.92]}),
        made_up_run("fast wrong", period_s=0.02, accuracy={"map_50": 0.5}),
        made_up_run("beaten", period_s=0.2, accuracy={"map_50": 0.4}),
    ]
    chart = speed_accuracy(runs)
    labels = [text.get_text() for text in axes_of(chart).get_legend().get_texts()]
    assert labels[:3] == ["slow right  (front)", "fast wrong  (front)", "beaten"]
    assert "and as accurate" in labels[3]
    assert axes_of(chart).get_ylabel().startswith("mAP at IoU 0.5")
    upright = [line.get_xydata() for line in axes_of(chart).lines if len(set(line.get_xdata())) == 1]
    assert [[runs[0].fps, 0.88], [runs[0].fps, 0.92]] in [data.tolist() for data in upright]
    mixed = speed_accuracy([*runs, made_up_run("no truth")])
    assert axes_of(mixed).get_ylabel().startswith("agreement")


def judged(name: str, map_: float, loss: float, *, map_50: float = 0.995, **other: object) -> Run:
    """A run of which the mAP and its loss against the reference are known, judged as a benchmark does."""
    own = {"map": map_, "map_50": map_50, "map_interval": [map_ - 0.02, map_ + 0.02], "n_scenes": 100}
    reference = own | {"map": map_ + loss}
    return made_up_run(name, accuracy=accuracy.against(reference, own), **other)


def test_speed_accuracy_shows_the_strict_measure_where_losses_do_not_hide() -> None:
    exact = judged("exact", 0.85, 0.0, period_s=0.1)
    int8 = judged("int8", 0.836, 0.014, map_50=0.996, period_s=0.02)
    chart = speed_accuracy([exact, int8])
    axes = axes_of(chart)
    assert axes.get_ylabel() == "mAP at IoU 0.5 to 0.95 (0 to 1)"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "exact  (front)"
    assert labels[1] == "int8 !  (front)\nloses 1.4 points of mAP@[.5:.95]"
    assert "loses over 1 point" in labels[3]
    rings = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [ring.get_xydata().tolist() for ring in rings] == [[[int8.fps, 0.836]]]
    assert [text.get_text() for text in axes.texts] == ["!"]
    (stair,) = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    assert stair.get_xydata().tolist() == [[exact.fps, 0.85], [int8.fps, 0.836]]
    low, high = axes.get_ylim()
    assert low < 0.816 < 0.87 < high < 0.9
    assert "at 0.836 (0.816 to 0.856), on the front, marked: it loses 1.4 points" in chart.alt_text
    assert "the lab's small models, prepared alike, on 100 drawn" in chart.texts[1].get_text().replace(
        "\n", " "
    )
    assert_legible(chart)


def test_who_loses_is_decided_by_the_examination_alone() -> None:
    just = judged("just", 0.84, 0.0101)
    assert answers.loses(just) and just.accuracy["loses"]
    told = made_up_run("told", accuracy={**just.accuracy, "loses": False})
    assert not answers.loses(told)
    assert not answers.loses(made_up_run("never examined"))
    assert not speed_accuracy([told, judged("b", 0.8, 0.0)]).alt_text.count("loses")
    assert (accuracy.MAP_LOSS, accuracy.NAMES_CHANGED) == (0.01, 0.01)
    assert "1 point of mAP, or changes more than 1% of names" in answers.LOSES_WORDS


def test_every_picture_of_a_rung_that_loses_bears_its_mark_and_says_why() -> None:
    runs = [judged("exact", 0.85, 0.0), judged("int8", 0.836, 0.014)]
    for name, chart in overview(runs, []):
        labels = [text.get_text() for text in visible_texts(chart)]
        assert any(label.startswith("int8 !") for label in labels), name
        assert answers.LOSES_WORDS in chart.texts[1].get_text().replace("\n", " "), name
        assert_legible(chart)


def test_what_answers_are_worth_is_told_in_cells() -> None:
    run = judged("int8", 0.836, 0.014)
    assert answers.format_precision(run) == "0.836! (0.816 to 0.856)"
    assert answers.format_names(run) == "-"
    fewer = made_up_run("a", accuracy={"top1": 0.9, "top1_loss": 0.03, "loses": True})
    assert (answers.format_precision(fewer), answers.format_names(fewer)) == ("-", "90.0%!")
    assert answers.describe_losses([fewer, run]).endswith(
        "(a 3.0% of right names; int8 1.4 points of mAP@[.5:.95])"
    )
    assert answers.describe_losses([judged("exact", 0.85, 0.0)]) == ""
    other_names = made_up_run("c", accuracy={"map_loss": 0.001, "names_changed": 0.021, "loses": True})
    assert answers.format_loss(other_names) == "2.1% of names changed"
    loose = made_up_run("b", accuracy={"map_50_loss": 0.02, "map_loss": 0.01, "loses": True})
    assert answers.format_loss(loose) == "2.0 points of mAP@0.5"


def test_it_is_told_on_what_answers_were_judged() -> None:
    whole = made_up_run(
        settings={"preparation": {"task": "classify"}}, accuracy={"n_scenes": 466, "top1": 1.0}
    )
    photographs = made_up_run(accuracy={"on": "photographs", "n_images": 50, "map": 0.4})
    assert answers.evaluated_on([judged("a", 0.8, 0.0), judged("b", 0.8, 0.0), whole, photographs]) == (
        "the lab's small models, prepared alike, on 100 drawn scenes and 466 objects cut from drawn "
        "scenes; the same weights on 50 photographs"
    )
    assert answers.evaluated_on([made_up_run()]) == ""


def test_speeds_far_apart_stand_on_a_logarithmic_axis_that_says_so() -> None:
    far = [judged("a", 0.8, 0.0, period_s=0.1), judged("b", 0.8, 0.0, period_s=0.01)]
    assert axes_of(speed_accuracy(far)).get_xlabel() == "throughput (frames per second, logarithmic)"
    assert axes_of(speed_accuracy(far[:1])).get_xlabel() == "throughput (frames per second)"
    wide = [made_up_run("a", period_s=0.2), made_up_run("b", period_s=0.01)]
    assert "logarithmic" in axes_of(throughput(wide)).get_xlabel()
    assert "logarithmic" in axes_of(latency(wide)).get_xlabel()


def test_speed_accuracy_leaves_out_what_detects_anew_in_pictures_without_motion() -> None:
    settings = dict(made_up_run().settings)
    moved = judged("moved", 0.85, 0.0, settings={**settings, "preparation": {"task": "combined", "every": 4}})
    chart = speed_accuracy([judged("exact", 0.85, 0.0), moved])
    assert "moved" not in chart.alt_text and "exact" in chart.alt_text
    texts = [text.get_text() for text in chart.figure.texts]
    assert any("left out: moved" in text.replace("\n", " ") for text in texts), texts
    agreed = speed_accuracy([made_up_run("a"), made_up_run("b", settings=moved.settings)])
    assert "b " in agreed.alt_text, "agreement is that of the measured frames"


def test_speed_accuracy_and_share_of_peak_refuse_what_they_cannot_draw() -> None:
    bare = made_up_run(agreement=None, limit={})
    with pytest.raises(UsageError, match="none of the 1 runs"):
        speed_accuracy([bare])
    with pytest.raises(UsageError, match="peak"):
        share_of_peak([bare])
    with pytest.raises(UsageError, match="no results were given"):
        throughput([])
    assert [name for name, _ in overview([bare], [])] == ["throughput", "latency", "where_time_goes"]


def test_the_shares_of_the_peak_stand_beside_the_plot_and_its_axis_is_named_rightly() -> None:
    runs = [made_up_run(f"rung {k}", period_s=0.0101 + 0.002 * k) for k in range(6)]
    chart = share_of_peak(runs)
    axes = axes_of(chart)
    chart.canvas.draw()
    assert all(text.get_window_extent().x0 > axes.bbox.x1 for text in axes.texts)
    assert axes.transData.transform((100, 0))[0] < axes.bbox.x1
    assert "products and convolutions" in axes.get_xlabel()
    assert "of 1000 GFLOP/s" in chart.alt_text
    assert_legible(chart)


def test_a_part_has_the_same_colour_in_every_picture() -> None:
    latency = made_up_run().latency_s
    one = made_up_run(spans_s={"detect": 0.5 * latency, "own": 0.2 * latency})
    other = made_up_run(
        spans_s={"filter": 0.1 * latency, "preprocess": 0.1 * latency, "detect": 0.5 * latency}
    )
    first, second = (
        {
            handle.get_label(): (handle.patches[0].get_facecolor(), handle.patches[0].get_hatch())
            for handle in axes_of(where_time_goes([run])).containers
        }
        for run in (one, other)
    )
    assert first["detect"] == second["detect"]
    assert len({*first.values(), *second.values()}) == 5


def test_thin_parts_have_no_seam_that_would_hide_them() -> None:
    latency = made_up_run().latency_s
    thin = made_up_run(spans_s={"infer": 0.99 * latency, "crop": 0.003 * latency})
    infer, crop, _ = axes_of(where_time_goes([thin])).patches
    assert infer.get_linewidth() > 0 == crop.get_linewidth()


def test_latency_explains_what_it_draws_and_nothing_else() -> None:
    told = [text.get_text() for text in axes_of(latency(ladder(2))).get_legend().get_texts()]
    assert told == ["how many frames", "fastest to slowest", "median", "p90"]


def test_data_colours_are_told_apart() -> None:
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in style.COLOURS])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=2)
    assert apart[~np.eye(len(rgb), dtype=bool)].min() > 0.25


def test_time_against_boxes_has_its_key_outside_the_plot() -> None:
    settings = made_up_run().settings
    runs = [
        made_up_run(rung, period_s=0.02 + 0.004 * k * boxes, settings={**settings, "objects": boxes})
        for k, rung in enumerate(("one by one", "together"))
        for boxes in (1, 5, 15)
    ]
    chart = cost_of_boxes(runs)
    axes = axes_of(chart)
    assert_legible(chart)
    assert axes.get_legend().get_window_extent().y0 >= axes.bbox.y1 - 1
    assert lines_hollow(axes) == []
    runs[2] = made_up_run("one by one", settings={**settings, "objects": 15}, disturbances=("loud",))
    assert lines_hollow(axes_of(cost_of_boxes(runs))) == [[15, 1e3 / runs[2].fps]]
    assert list(axes.get_xticks()) == [0, 1, 5, 15]
    assert axes.get_xlim()[0] == 0
    assert "together" in chart.alt_text and "ms at 15" in chart.alt_text
    slopes = [text.get_text() for text in axes.get_legend().get_texts()]
    assert re.search(r"together: (3\.[89]|4\.[01])\d ms per box \(", slopes[1])


def test_a_bar_is_as_long_as_the_share_of_the_peak() -> None:
    run = made_up_run()
    axes = axes_of(share_of_peak([run]))
    assert axes.patches[0].get_width() == pytest.approx(100 * run.share_of_limit)
    (interval,) = lines_with(axes, "|")
    assert interval[:, 0] == pytest.approx([bound * 10 / 1000 * 100 for bound in run.fps_interval])


def test_every_figure_has_units_words_and_where_it_comes_from() -> None:
    runs = [*ladder(2), made_up_run("restless", spread=0.3, quick=True)]
    charts = [chart for _, chart in overview(runs, steps(2))]
    assert len(charts) == 6
    for chart in charts:
        assert re.search(r"\(.+\)$", axes_of(chart).get_xlabel()), chart.title
        assert len(chart.alt_text) > 40
        caption = chart.texts[1].get_text().replace("\n", " ")
        assert "random weights (names mean nothing)" in caption
        assert "Example CPU 3000, 8 cores" in caption
        assert mpl.colors.to_hex(chart.get_facecolor()) == style.PAPER.lower()
    assert "quick" in charts[0].texts[1].get_text()
    assert "noisy" in charts[0].texts[1].get_text()


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        rgb = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_on_a_colour_are_in_the_ink_that_stands_out() -> None:
    dark, light = style.ink_on("#101010"), style.ink_on("#f0f0f0")
    assert contrast(dark, "#101010") > 7 and contrast(light, "#f0f0f0") > 7


def test_inks_stand_out_from_the_paper() -> None:
    assert contrast(style.INK, style.PAPER) > 7
    assert contrast(style.FAINT, style.PAPER) > 4.5


def test_the_settings_of_others_are_left_alone() -> None:
    names = [name for name in mpl.rcParams if name != "backend"]
    before = {name: mpl.rcParams[name] for name in names}
    throughput(ladder(1))
    assert {name: mpl.rcParams[name] for name in names} == before


def test_a_notebook_shows_a_figure_with_its_words() -> None:
    shown = throughput([made_up_run("<b>")])._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,iVBOR')
    assert "&lt;b&gt; 33" in shown


@pytest.mark.parametrize("page", ["#FFFFFF", "#111111", "#0D1117"])
@pytest.mark.parametrize("kind", ["chart", "photographs"])
def test_a_chart_is_readable_on_light_pages_and_on_dark_ones(kind: str, page: str) -> None:
    """What lies around each word is the card's paper or a bar, never the page, whatever its colour is."""
    noise = np.zeros((40, 60, 3), np.uint8)
    chart = (
        throughput(ladder(2)) if kind == "chart" else image_grid([noise, noise], ["one", "two"], title="x")
    )
    seen = Image.open(io.BytesIO(chart.png(60))).convert("RGBA")
    on_page = np.asarray(Image.alpha_composite(Image.new("RGBA", seen.size, page), seen))[..., :3]
    assert np.asarray(seen)[..., 3].min() == 255
    corner = mpl.colors.to_hex(on_page[8, 8] / 255)
    assert corner == style.PAPER.lower() == mpl.colors.to_hex(on_page[-9, -9] / 255)
    texts = chart.findobj(lambda each: isinstance(each, Text) and each.get_text().strip())
    inks = {mpl.colors.to_hex(text.get_color()) for text in texts}
    assert {style.INK.lower()} <= inks
    assert all(contrast(ink, corner) >= 4.5 for ink in inks)


def test_no_ink_would_do_without_the_card() -> None:
    greys = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]
    assert all(min(contrast(grey, page) for page in ("#FFFFFF", "#111111")) < 4.5 for grey in greys)


def test_names_are_shown_as_they_stand_or_lose_their_middle() -> None:
    assert style.wrapped("short") == "short"
    assert style.wrapped("x" * 40) == "x" * 26 + "\n" + "x" * 14
    folded = style.wrapped("first part of it and then something else up to the end 7")
    assert all(len(line) <= 26 for line in folded.split("\n"))
    assert folded.startswith("first part")
    assert folded.endswith("end 7")
    assert "…" in folded
    assert style.wrapped("bell\a\nline") == "bell��line"
    axes = axes_of(throughput([made_up_run("cost: $5 and $6")]))
    assert axes.get_yticklabels()[0].get_text() == "cost: $5 and $6"
    assert not axes.get_yticklabels()[0].get_parse_math()


def test_rungs_that_come_twice_are_told_apart() -> None:
    assert style.row_labels([made_up_run("a", id=4), made_up_run("a"), made_up_run("b")]) == [
        "a #4",
        "a #2",
        "b",
    ]


def test_saved_svg_carries_its_words_and_is_the_same_each_time(tmp_path: Path) -> None:
    runs = [made_up_run("<script>&\"'\x00", disturbances=("loud",))]
    svg_path, png_path = save(throughput(runs), tmp_path / "new" / "speed.v1")
    assert (svg_path.name, png_path.name) == ("speed.v1.svg", "speed.v1.png")
    assert png_path.read_bytes().startswith(b"\x89PNG")
    root = ET.fromstring(svg_path.read_text())
    assert root.attrib["role"] == "img"
    title, desc = list(root)[:2]
    assert title.text == "Throughput, with 95% intervals"
    assert desc.text.startswith("Throughput in frames per second: <script>&\"'\N{REPLACEMENT CHARACTER}")
    assert svg_text(throughput(runs)) == svg_path.read_text()


def test_save_all_writes_a_pair_of_files_per_figure(tmp_path: Path) -> None:
    written = save_all(ladder(2), [made_up_comparison("a/../b", "c")], tmp_path)
    names = sorted(path.name for path in written)
    assert len(names) == len(set(names)) == 12
    assert all(path.parent == tmp_path and path.stat().st_size > 1000 for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


FLEET = [
    FleetPoint(1, 30.0, 40.0, 29.0, 55.0),
    FleetPoint(2, 60.0, 45.0),
    FleetPoint(4, 95.0, 90.0, 88.0, 121.0),
]


@pytest.mark.parametrize("age", [False, True])
def test_a_fleet_is_drawn_beside_its_simulation(age):
    chart = fleet_chart(FLEET, single_fps=97.0, age=age, about=["made up"])
    axes = chart.axes[0]
    seen = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert seen["simulated"] == ([40.0, 45.0, 90.0] if age else [30.0, 60.0, 95.0])
    assert seen["measured, through Ray"] == ([55.0, 121.0] if age else [29.0, 88.0])
    assert ("best single process" in seen) is not age
    assert_legible(chart)
    assert axes.get_legend().get_window_extent().y0 >= axes.bbox.y1 - 1
    assert "Measured: " in chart.alt_text and ("ms at 4" if age else "per second at 4") in chart.alt_text
    assert axes.get_ylim()[1] > max(max(values) for values in seen.values())
    alone = fleet_chart([FleetPoint(1, 30.0, 40.0)], single_fps=97.0)
    assert "Measured" not in alone.alt_text


def test_a_loss_has_its_interval_drawn_too():
    comparison = made_up_comparison(ratio=0.5)
    low, high = comparison.interval
    assert _Bar(comparison, 2.0).bounds == (2 * comparison.ratio, 2 * low, 2 * high)
