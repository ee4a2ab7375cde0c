"""Ablation of accuracy: verdicts from intervals, the same scenes for all, tables that read back."""

from dataclasses import replace

import numpy as np
import pytest
from in_process import measure_in_process
from test_plots import assert_legible, axes_of

from labkit.bench import accuracy
from labkit.bench.agreement import Answers
from labkit.core.errors import ResultsError, UsageError
from labkit.core.files import recorded_folder
from labkit.lessons import nb06_accuracy
from labkit.results.ablation import AblationRow, Estimate, from_csv, sentences, to_csv
from labkit.results.plots.robustness import robustness

pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")


def made_up(change="as it is", noise=0.0, lost=(0.0, 0.0, 0.0), value=0.9):
    figure = Estimate(value, value - 0.02, value + 0.02)
    return AblationRow(
        change, f"what {change} is", noise, 100, figure, figure, figure, Estimate(0.001), Estimate(*lost)
    )


ROWS = [
    made_up(),
    made_up("loses", lost=(0.05, 0.04, 0.06), value=0.85),
    made_up("gains", lost=(-0.03, -0.04, -0.02), value=0.93),
    made_up("harmless", lost=(0.001, -0.002, 0.004)),
    made_up("unclear", lost=(0.01, -0.02, 0.04)),
    made_up("little known", lost=(0.01, None, None)),
    made_up(noise=30.0, value=0.5),
    made_up("loses", noise=30.0, lost=(0.1, 0.05, 0.15), value=0.4),
]


def test_the_interval_decides_what_is_said():
    assert [row.verdict("map") for row in ROWS[:6]] == [
        "costs nothing", "costs", "gains", "costs nothing", "cannot tell", "cannot tell",
    ]  # fmt: skip
    clean, noisy = sentences(ROWS)
    assert clean.startswith(
        "On 100 clean scenes, mAP at IoU 0.5 to 0.95 of the unchanged network is 0.900 (0.880 to 0.920)."
    )
    assert sentences(ROWS, "map_50")[0].startswith(
        "On 100 clean scenes, mAP at IoU 0.5 of the unchanged network is"
    )
    assert "Points that are lost: loses (5.0, 4.0 to 6.0)." in clean
    assert "Points that are gained: gains (3.0, 2.0 to 4.0)." in clean
    assert "Surely less than a point is lost: harmless (0.1, -0.2 to 0.4)." in clean
    assert "unclear (1.0, -2.0 to 4.0); little known (1.0, on too few scenes for an interval)" in clean
    assert "noise of 30 grey levels" in noisy
    assert "loses (10.0, 5.0 to 15.0)" in noisy


def test_a_table_reads_back_and_another_file_is_refused():
    read = from_csv(to_csv(ROWS))
    assert to_csv(read) == to_csv(ROWS)
    assert [row.lost_map for row in read] == [row.lost_map for row in ROWS]
    assert [row.change for row in read] == [row.change for row in ROWS]
    for text in ("a,b\n1,2\n", to_csv(ROWS).replace("0.900000", "x"), to_csv(ROWS)[:-60]):
        with pytest.raises(ResultsError, match="no ablation table"):
            from_csv(text)


def test_the_picture_is_legible_and_says_what_it_shows():
    chart = robustness(ROWS)
    assert_legible(chart)
    drawn = [line.get_xydata()[0, 0] for line in axes_of(chart).lines if line.get_marker() in ("o", "s")]
    assert sorted(drawn) == pytest.approx(
        sorted(100 * row.lost_map.value for row in ROWS if row.change != "as it is")
    )
    assert "loses: 5.0, 4.0 to 6.0 clean; 10.0, 5.0 to 15.0 with noise of 30 grey levels." in chart.alt_text
    with pytest.raises(UsageError, match="nothing to draw"):
        robustness(ROWS[:1])


def test_a_loss_is_that_of_the_same_scenes():
    frames = accuracy.truth_frames(16, (160, 128))
    whole = Answers("whole", [frame.truth for frame in frames], {})
    half = Answers("half", [t if i % 2 else t.take([]) for i, t in enumerate(whole.found)], {})
    assert accuracy.map_loss(whole, whole, frames) == {"map_50": [0, 0, 0], "map": [0, 0, 0]}
    for key, (loss, low, high) in accuracy.map_loss(whole, half, frames).items():
        assert 0 < low <= loss <= high
        assert accuracy.map_loss(half, whole, frames)[key][0] == -loss
    few = Answers("few", whole.found[:3], {})
    assert accuracy.map_loss(few, few, frames[:3])["map"] == [0, None, None]


@pytest.fixture(scope="module")
def ablation():
    with pytest.MonkeyPatch.context() as patch:
        measure_in_process(patch.setattr)
        return nb06_accuracy.run_ablation(["3 boxes", "frame 320x240"], scenes=16, noises=(0,))


def test_each_change_is_evaluated(ablation):
    first, smaller, fewer = ablation
    assert [row.change for row in ablation] == ["as it is", "frame 320x240", "3 boxes"]
    assert first.map_50.value > 0.9
    assert first.top1.value > 0.9
    assert first.lost_map_50 == first.lost_map == Estimate(0, 0, 0)
    assert smaller.map_50.value > 0.8, "boxes of a smaller frame are scaled back"
    assert fewer.map_50.value < first.map_50.value - 0.05, "up to eight objects, three boxes"
    for row in ablation[1:]:
        assert row.lost_map_50.value == pytest.approx(first.map_50.value - row.map_50.value)
        assert row.lost_map.value == pytest.approx(first.map.value - row.map.value)
        assert row.lost_map.low <= row.lost_map.value <= row.lost_map.high


def test_half_precision_is_set_against_float32():
    table = nb06_accuracy.half_precision(["lab_detr"], scenes=1, boxes=5)
    assert [key[2] for key in table.index] == ["bfloat16", "float16"]
    assert (table["found again"] == 1).all()
    bfloat16, float16 = table["error of logits"]
    assert 0 < float16 < bfloat16 < 0.05


@pytest.mark.extended
@pytest.mark.parametrize("model", ["d_fine_s", "rf_detr_n"])
def test_a_detector_that_samples_survives_half_precision_if_it_samples_in_float32(model):
    table = nb06_accuracy.half_precision([model], scenes=1, boxes=5, weights="random")
    assert [key[2] for key in table.index][2:] == [
        "bfloat16, sampling in float32", "float16, sampling in float32",
    ]  # fmt: skip
    errors = table["error of logits"].to_numpy()[2:]
    assert (errors < 0.5).all() and (errors > 0).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"scenes": 0}, "one scene"), ({"boxes": 0}, "one box"), ({"models": ["resnet18"]}, "is a classifier")],
)
def test_half_precision_needs_a_detector_a_scene_and_a_box(given, words):
    with pytest.raises(UsageError, match=words):
        nb06_accuracy.half_precision(**{"models": ["lab_detr"], "scenes": 1, "weights": "random"} | given)


def test_boxes_are_scaled_with_their_frame():
    frame = accuracy.truth_frames(1)[0]
    small = nb06_accuracy._resized(frame, (160, 120))
    assert small.image.shape == (120, 160, 3)
    shrunk = replace(frame.truth, xyxy=(frame.truth.xyxy / 4).astype(np.float32), frame_size=(160, 120))
    back = nb06_accuracy._scaled(shrunk, (640, 480))
    np.testing.assert_allclose(back.xyxy, frame.truth.xyxy, atol=1e-3)
    assert back.frame_size == (640, 480)


def test_mistakes_are_reported(tmp_path, capsys):
    with pytest.raises(UsageError, match="no change 'magic'"):
        nb06_accuracy.run_ablation(["magic"])
    with pytest.raises(UsageError, match="0 scenes"):
        nb06_accuracy.run_ablation(scenes=0)
    with pytest.raises(ResultsError, match="no recorded table"):
        nb06_accuracy.recorded_ablation(tmp_path)
    assert nb06_accuracy.main(["--scenes", "0", "--out", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_ships_was_made_with_these_changes():
    rows = nb06_accuracy.recorded_ablation()
    assert {(row.change, row.about) for row in rows} == {(c.name, c.about) for c in nb06_accuracy.CHANGES}
    assert {row.noise for row in rows} == set(nb06_accuracy.NOISES)
    assert {row.n_scenes for row in rows} == {accuracy.FULL_SCENES}
    assert all(row.lost_map.low is not None for row in rows)


def test_writing_leaves_table_picture_and_machine(ablation, tmp_path):
    names = {path.name for path in nb06_accuracy.write(ablation, tmp_path)}
    assert names == {"accuracy.csv", "accuracy.svg", "accuracy.png", "fingerprint.json"}
    assert [row.change for row in nb06_accuracy.recorded_ablation(tmp_path)] == [
        row.change for row in ablation
    ]


def test_a_picture_is_drawn_again_from_the_table_alone(tmp_path, capsys):
    (tmp_path / "accuracy.csv").write_text(to_csv(ROWS))
    assert nb06_accuracy.main(["--redraw", "--out", str(tmp_path)]) == 7
    assert "fingerprint.json is missing" in capsys.readouterr().err
    (tmp_path / "fingerprint.json").write_text('{"cpu": "Example CPU 3000", "cores": 8}')
    assert nb06_accuracy.main(["--redraw", "--out", str(tmp_path)]) == 0
    drawn = (tmp_path / "accuracy.svg").read_text()
    assert "loses: 5.0, 4.0 to 6.0 clean" in drawn
    assert (tmp_path / "accuracy.csv").read_text() == to_csv(ROWS)


def test_the_recorded_picture_is_of_the_recorded_table():
    folder = recorded_folder("accuracy")
    chart = robustness(nb06_accuracy.recorded_ablation(folder))
    assert f'<desc id="desc">{chart.alt_text}</desc>' in (folder / "accuracy.svg").read_text()


def test_a_figure_without_an_interval_stands_alone():
    assert str(Estimate(0.85)) == "0.850"
    assert str(Estimate(0.85, 0.8, 0.9)) == "0.850 (0.800 to 0.900)"
