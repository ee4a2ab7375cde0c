"""What notebooks 04 and 05 call: pictures with words, tables with the right figures, sliders that act."""

from dataclasses import replace

import numpy as np
import pytest

from labkit.bench.session import Session
from labkit.core.trace import recording
from labkit.core.types import Workload
from labkit.lessons import nb04_filter, nb05_streams
from labkit.pipelines.ladder import rung

from conftest import TINY  # isort: skip

SMALL = {"source": "scenes", "size": (96, 64)}


def test_the_edge_profile_says_what_each_filter_does():
    chart = nb04_filter.edge_profile(noise=8)
    lines = {line.get_label(): line.get_ydata() for line in chart.axes[0].lines}
    steepest = {name: np.abs(np.diff(values.astype(float))).max() for name, values in lines.items()}
    assert steepest["guided filter"] > 3 * steepest["box blur"]
    np.testing.assert_allclose(lines["the origin's"], lines["box blur"], atol=2.5)
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


def test_the_origins_eps_does_nothing_and_the_right_one_does():
    table = nb04_filter.origin_eps(**SMALL)
    change = table.groupby("filter")["change in grey levels"].max()
    assert change["the origin's"] < 0.1
    assert change["guided"] > 1
    assert (table[table["filter"] == "the origin's"]["median a"] > 0.9).all()


def test_times_are_a_ratio_with_its_interval():
    table = nb04_filter.filter_times(rounds=9, **SMALL).set_index("version")
    assert table.loc["reference", "times faster"] == 1
    assert (table["largest difference"] <= 1).all()
    assert (table["median ms"] > 0).all()


def test_the_kernel_table_counts_bytes(capsys):
    table = nb04_filter.kernel_table()
    if isinstance(table, str):
        pytest.skip(table)
    table = table.set_index("kernel file")
    # fused: three bytes in, three out; with coefficients between: 3 in, 24 out; 24 and 3 in, 3 out
    assert table.loc["guided_4_fused.cu", "bytes per pixel"] == 6
    assert table.loc["guided_1_global.cu", "bytes per pixel"] == 57
    assert table.loc["guided_4_fused.cu", "us for the bytes"] == pytest.approx(0.38, abs=0.01)
    assert "Worked out" in capsys.readouterr().out


def test_whether_it_helps_depends_on_the_noise():
    table = nb04_filter.help_table("photos", (0, 20), (0.0001, 0.01), size=(160, 120))
    assert table.loc[0, "no filter"] == np.inf
    assert table.loc[20, "eps 0.01"] > table.loc[20, "no filter"] + 2
    assert table.loc[0, "eps 0.01"] < table.loc[0, "eps 0.0001"]


def test_the_detector_is_asked_too():
    table = nb04_filter.detection_table((0, 90), (0.04,), scenes=2)
    assert list(table.columns) == ["no filter", "eps 0.04"]
    assert "too few scenes" in table.loc[0, "no filter"]


def test_a_measured_timeline_names_its_rows_and_its_overlap():
    chart = nb05_streams.timeline("streams_cpu", frames=2, objects=2, source="scenes", size=(96, 64))
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert labels == ["preprocess thread", "engine"]
    assert "detect of frame 3 on engine" in chart.alt_text
    plain = nb05_streams.timeline("filter_numba_cpu", frames=1, objects=1, source="scenes", size=(96, 64))
    assert [label.get_text() for label in plain.axes[0].get_yticklabels()] == ["one thread"]


def test_a_timeline_that_needs_a_gpu_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "NVIDIA GPU" in nb05_streams.timeline("streams_cuda")


def test_the_simulated_race_is_told(capsys):
    nb05_streams.simulated("two streams, no waiting", late="upload", depth=1)
    assert "Frame 0 got an answer about memory" in capsys.readouterr().out
    nb05_streams.simulated("four streams", late="upload")
    assert "All 4 frames got their own answer" in capsys.readouterr().out


def test_more_frames_under_way_cost_latency():
    table = nb05_streams.depths((1, 2, 4))
    assert table["frames per second"][1] > 1.3 * table["frames per second"][0]
    assert table["median latency (ms)"].is_monotonic_increasing
    assert table["upload and filter hidden"].iloc[0] == "0%"


@pytest.mark.parametrize("name", ["streams_cpu", "filter_numba_cpu", "streams_cuda", "baseline_streams_cuda"])
def test_every_step_that_a_schedule_has_stands_on_a_thread_or_stream(name, frames):
    """The GPU's rungs are run here with nothing but their device taken from them."""
    row = rung(name)
    on_cpu = replace(row, prepare=replace(row.prepare, device="cpu", engine="eager", precision="fp32"))
    session = Session(on_cpu, Workload(weights="random", size=TINY, objects=2), frames[:2])
    with recording() as record:
        list(row.run(frames[:2], session.prepared.net))
    left_out = {"decode"} if name == "streams_cuda" else set()  # the host's, once all streams are done
    assert {span.name for span in record.spans()} - set(nb05_streams._rows_of(row)) == left_out
