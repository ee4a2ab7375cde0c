"""Lessons: plots with words, tables with the right figures, sliders that act, differences of rungs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from in_process import InProcessWorker, measure_in_process
from records_made_up import made_up_run

from labkit.bench import accuracy, check_loop
from labkit.bench.agreement import Answers
from labkit.bench.session import Session
from labkit.core.errors import UsageError
from labkit.core.trace import recording, span
from labkit.core.types import Workload
from labkit.lessons import nb03_combined_models, nb04_filter, nb05_streams
from labkit.lessons.nb06_optimizations import launch_counts
from labkit.lessons.published import PUBLISHED, published_beside
from labkit.pipelines.ladder import LADDER, rung

from conftest import TINY, further  # isort: skip

SMALL = {"source": "scenes", "size": (96, 64)}


def test_the_edge_profile_says_what_each_filter_does():
    chart = nb04_filter.edge_profile(noise=8)
    lines = {line.get_label(): line.get_ydata() for line in chart.axes[0].lines}
    steepest = {name: np.abs(np.diff(values.astype(float))).max() for name, values in lines.items()}
    assert steepest["guided filter"] > 3 * steepest["box blur"]
    np.testing.assert_allclose(lines["the author's filter"], lines["box blur"], atol=2.5)
    assert "edge 8 px wide" in chart.alt_text


def test_pictures_have_words():
    figure = nb04_filter.smooth_pictures(**SMALL)
    assert len(figure.axes) == 8
    assert "guided, eps 0.01" in figure.alt_text


def test_sliders_change_the_picture():
    (radius, eps), picture = (
        (box := nb04_filter.try_filter(**SMALL)).children[0].children, box.children[1]
    )  # fmt: skip
    seen = {picture.value}
    radius.value = 9
    seen.add(picture.value)
    eps.value = 0.1
    seen.add(picture.value)
    assert len(seen) == 3


def test_the_kernel_table_counts_bytes(capsys):
    table = nb04_filter.kernel_table()
    if isinstance(table, str):
        pytest.skip(table)
    table = table.set_index("kernel file")
    # fused: three bytes in, three out; with coefficients between: 3 in, 24 out; 24 and 3 in, 3 out
    assert table.loc["guided_4_fused.cu", "bytes per pixel"] == 6
    assert table.loc["guided_1_global.cu", "bytes per pixel"] == 57
    assert table.loc["guided_4_fused.cu", "us for the bytes"] == pytest.approx(0.38, abs=0.01)
    assert "Computed" in capsys.readouterr().out


def test_the_filter_is_evaluated_by_the_detector():
    table = nb04_filter.detection_table((0, 90), (0.04,), scenes=2)
    assert list(table.columns) == ["no filter", "eps 0.04"]
    assert "too few scenes" in table.loc[0, "no filter"]


@pytest.mark.extended
def test_the_cost_of_a_box_is_measured_in_turns(monkeypatch):
    """Numbers of boxes that follow one another would take a machine's drift for a slope."""
    measure_in_process(monkeypatch.setattr)
    order = []
    become = InProcessWorker.become
    monkeypatch.setattr(
        InProcessWorker, "become", lambda self, *given: order.append(given[1].objects) or become(self, *given)
    )
    monkeypatch.setattr(
        nb03_combined_models, "QUICK", replace(nb03_combined_models.QUICK, min_frames=2, warm_frames=1)
    )
    found = nb03_combined_models.box_costs(
        ["batched_cpu", "combined_cuda"], (1, 4), rounds=4, size=(160, 128), model_set="lab"
    )
    measured = [(run.rung, run.settings["objects"]) for run in found.runs]
    assert measured == [("batched_cpu", 1), ("batched_cpu", 4)]
    assert [*found.skipped] == ["combined_cuda"] or torch.cuda.is_available()
    turns = order[1:]  # the first one starts the process
    assert sorted(turns) == [1] * 4 + [4] * 4
    assert turns != sorted(turns)
    assert list(found.cost_per_box()["rung"]) == ["batched_cpu"]
    assert "batched_cpu" in found.plot("by_boxes").alt_text


def test_a_measured_timeline_names_its_rows_and_its_overlap():
    chart = nb05_streams.timeline("streams_cpu", frames=2, objects=2, source="scenes", size=(96, 64))
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert labels == ["preprocess thread", "engine"]
    assert "detect of frame 3 on engine" in chart.alt_text
    plain = nb05_streams.timeline("filter_numba_cpu", frames=1, objects=1, source="scenes", size=(96, 64))
    assert [label.get_text() for label in plain.axes[0].get_yticklabels()] == ["one thread"]


def test_the_timeline_of_a_loop_of_ones_own():
    def mine(frames):
        for frame in frames:
            with span("filter", frame):
                pass
            with span("infer", frame):
                yield frame, ()

    chart = nb05_streams.loop_timeline(mine, {"filter": "one", "infer": "two"}, frames=2, size=(96, 64))
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == ["one", "two"]
    assert "infer of frame 3 on two" in chart.alt_text
    with pytest.raises(UsageError, match="no span is named sleep"):
        nb05_streams.loop_timeline(mine, {"sleep": "one"}, frames=1, size=(96, 64))


def test_a_timeline_that_needs_a_gpu_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "NVIDIA GPU" in nb05_streams.timeline("streams_cuda")


def test_the_simulated_race_is_described(capsys):
    nb05_streams.simulated("two streams, no waiting", late="upload", depth=1)
    assert "Frame 0 got an answer about memory" in capsys.readouterr().out
    nb05_streams.simulated("four streams", late="upload")
    assert "All 4 frames got their own answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"schedule": "two streems"}, "no schedule 'two streems' to simulate; there are: one stream; two"),
        ({"late": "uplaod"}, "no step 'uplaod' to simulate; there are: upload; filter; infer; copy back"),
    ],
)
def test_what_cannot_be_simulated_is_told(asked, words):
    with pytest.raises(UsageError, match=words):
        nb05_streams.simulated(**asked)


def test_more_frames_in_flight_cost_latency():
    table = nb05_streams.depths((1, 2, 4))
    assert table["frames per second"][1] > 1.3 * table["frames per second"][0]
    assert table["median latency (ms)"].is_monotonic_increasing
    assert table["upload and filter hidden"].iloc[0] == "0%"


@pytest.mark.parametrize(
    "name", ["streams_cpu", "streams_cuda", *further("filter_numba_cpu", "baseline_streams_cuda")]
)
def test_every_step_that_a_schedule_has_stands_on_a_thread_or_stream(name, frames):
    """The GPU's rungs are run here with nothing but their device taken from them."""
    row = rung(name)
    on_cpu = replace(row, prepare=replace(row.prepare, device="cpu", engine="eager", precision="fp32"))
    session = Session(on_cpu, Workload(weights="random", size=TINY, objects=2), frames[:2])
    with recording() as record:
        list(row.run(frames[:2], session.prepared.net))
    left_out = {"decode"} if name == "streams_cuda" else set()  # the host's, once all streams are done
    assert {span.name for span in record.spans()} - set(nb05_streams.stream_of_step(row)) == left_out


def test_every_step_of_the_ladder_changes_something():
    for each in LADDER:
        before = rung(each.changes) if each.changes else None
        assert before is None or (before.run, before.prepare) != (each.run, each.prepare), each.name


def test_published_figures_stand_beside_the_runs_of_their_rung():
    run = made_up_run("detr_pil_cpu")
    table = published_beside([run], stage=1).set_index("rung")
    assert list(table["published FPS"]) == ["60 to 65", "70 to 80", "6 to 8", "8 to 10"]
    assert table.loc["resnet_pil_cpu", "FPS here"] == "not measured"
    assert table.loc["detr_pil_cpu", "FPS here"] not in ("", "not measured")
    assert {figure.rung for figure in PUBLISHED} <= {each.name for each in LADDER}
    shown = published_beside([], stage=6)._repr_html_()
    assert "not measured" in shown and "None" not in shown and "<th>0</th>" not in shown


def test_launches_and_waits_are_counted_without_a_gpu():
    five, fifteen = launch_counts(), launch_counts(15)
    assert (five["waits"] == five[["values", "copies", "on purpose"]].sum(axis=1)).all()
    per_box = (fifteen - five).loc["baseline_combined_cuda"] / 10
    assert per_box["values"] == 8  # four corners, score and label of a box; its name and how sure that is
    assert per_box["copies"] == 1  # its crop
    assert five.loc["baseline_combined_cuda", "values"] == 100 + 8 * 5 + 2  # and what the library reads
    for name in ("on_device_cuda", "half_cuda", "graph_cuda", "filter_fused_cuda", "streams_cuda"):
        assert five.loc[name, "waits"] == fifteen.loc[name, "waits"] == 1
    assert five.loc["graph_cuda", "launches"] < 10 < five.loc["half_cuda", "launches"]
    assert (five["launches"] <= five["kernels"]).all()
    steps = five["kernels"][["graph_cuda", "precomputed_cuda", "fused_convolutions_cuda", "box_kernels_cuda"]]
    assert "503.0" not in str(five) and five.loc["grouped_cuda", "waits"] == 2.5
    assert steps.is_monotonic_decreasing and steps.iloc[-1] <= 250 < 500 < steps.iloc[0]
    with pytest.raises(UsageError, match="5 or 15 boxes were counted, not of 7"):
        launch_counts(7)


def test_the_picture_of_a_check_shows_what_is_sure_and_says_how_much_is_not():
    frame = accuracy.truth_frames(1, (160, 128))[0]
    truth = frame.truth.take([0])
    five = replace(truth.take([0] * 5), score=np.array([0.9, 0.2, 0.1, 0.0, 0.0], np.float32))
    pictures = [
        check_loop._figure(frame, Answers("mine", [found], {}))
        for found in (five, five.take([0]), five.take([3]), truth.take([]))
    ]
    assert f"mine: {truth.name[0]}; 4 below 0.3<" in pictures[0]
    assert pictures[0].split("base64,")[1][:5000] == pictures[1].split("base64,")[1][:5000]
    assert f"mine: {truth.name[0]}<" in pictures[2]
    assert "mine: nothing<" in pictures[3]
