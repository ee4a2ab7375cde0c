"""Whole benchmarks on small frames: what is stored, skipped, compared and reported."""

import inspect
import os
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest

import labkit
from labkit.bench import context as context_module
from labkit.bench import run as run_module
from labkit.bench.interleave import FULL_ROUNDS, QUICK_ROUNDS, RoundPlan, time_interleaved
from labkit.bench.plan import FULL, Plan
from labkit.bench.progress import Reporter
from labkit.bench.run import bench, run_benchmark, run_comparison
from labkit.bench.worker import Worker
from labkit.cli.main import main
from labkit.cli.options import _WORK, parse_size
from labkit.core.errors import LabError, SourceError, UnavailableError, UsageError, WorkerError
from labkit.core.lock import machine_lock
from labkit.core.types import Detections, Preparation, Rung, Workload
from labkit.pipelines.ladder import rung
from labkit.results.records import Agreement
from labkit.results.result_set import ResultSet
from labkit.results.store import Store

from conftest import TINY  # isort: skip

pytestmark = pytest.mark.usefixtures("peaks_once", "in_process")

PLAN = Plan(seconds=0.3, min_frames=4, warm_frames=2, warm_s=0, warm_limit_s=1, quick=True)
ROUNDS = RoundPlan(rounds=9, frames=1, warm_up=1, processes=1, quick=True)
WORK = Workload(weights="random", size=TINY, objects=2)


class Heard(Reporter):
    def __init__(self):
        self.steps, self.notes, self.results, self.shares = [], [], [], []

    def step(self, text):
        self.steps.append(text)

    def note(self, text):
        self.notes.append(text)

    def progress(self, share):
        self.shares.append(share)

    def finished(self, result):
        self.results.append(result)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "lab.sqlite"
    heard = Heard()
    rungs = [rung("resnet_pil_cpu"), rung("resnet_opencv_cpu"), rung("resnet_cuda")]
    with Store(path) as store:
        result = run_benchmark(rungs, workload=WORK, plan=PLAN, rounds=ROUNDS, store=store, reporter=heard)
    return result, path, heard


def test_what_agrees_with_its_reference_is_like_it_whatever_that_one_differs_from():
    mine = replace(rung("detr_opencv_cpu"), name="mine", reference="detr_opencv_cpu")
    sound = {"mine": True, "detr_opencv_cpu": False, "detr_pil_cpu": True}
    other, first = rung("detr_opencv_cpu"), rung("detr_pil_cpu")
    assert run_module._alike(other, mine, sound) and run_module._alike(mine, other, sound)
    assert not run_module._alike(first, other, sound) and not run_module._alike(other, first, sound)
    assert run_module._alike(first, mine, sound)
    assert not run_module._alike(other, mine, {**sound, "mine": False})


def test_every_rung_leaves_a_row_with_all_that_belongs_to_it(outcome):
    _, path, _ = outcome
    with Store(path) as store:
        stored = store.runs()
    assert [run.rung for run in stored][:2] == ["resnet_pil_cpu", "resnet_opencv_cpu"]
    for run in stored:
        row = run.to_json()
        for key in (
            "rung", "stage", "device", "model_set", "weights", "source", "source_sha256", "objects",
            "scenario", "n_frames", "fps", "latency_ms", "spans_ms", "agreement", "noisy", "fingerprint",
        ):  # fmt: skip
            assert row[key] is not None, key
        assert set(row["latency_ms"]) >= {"p50", "p90", "p99"}
        assert row["weights"] == "random"
        assert row["quick"] is True
        assert row["fingerprint"]["versions"]["torch"]
        assert {"before", "during"} == row["fingerprint"]["state"].keys()
        assert {"load_1min", "memory_free_gib"} <= row["fingerprint"]["state"]["before"].keys()
        assert {"foreign_cpu", "steal", "quota_stopped"} <= row["fingerprint"]["state"]["during"].keys()
        assert set(row["spans_ms"]) == {"preprocess", "infer", "decode"}
        assert row["share_of_limit"] is None or 0 < row["share_of_limit"] <= 1  # None: a disturbed peak
        assert run.offered == run.n_frames + run.dropped + run.failed


def test_agreement_is_measured_against_the_reference(outcome):
    runs = {run.rung: run for run in outcome[0].runs}
    assert runs["resnet_pil_cpu"].agreement.relative_error == 0
    assert runs["resnet_opencv_cpu"].agreement.reference == "resnet_pil_cpu"
    assert runs["resnet_opencv_cpu"].agreement.relative_error > 0


def test_comparisons_follow_what_a_rung_changes(outcome):
    result, _, _ = outcome
    assert ("resnet_pil_cpu", "resnet_opencv_cpu") in [(c.a, c.b) for c in result.comparisons]
    assert all(c.rounds == 9 and c.id for c in result.comparisons)


def test_what_cannot_run_is_skipped_with_the_reason(outcome):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result, _, heard = outcome
    assert "NVIDIA GPU" in result.skipped["resnet_cuda"]
    assert any("cannot run here: resnet_cuda" in note for note in heard.notes)


def test_the_reporter_hears_steps_progress_and_results(outcome):
    result, _, heard = outcome
    assert any("measuring" in step for step in heard.steps)
    assert len(heard.results) == len(result.runs) + len(result.comparisons)
    assert max(heard.shares) == 1.0
    assert any("random weights" in note for note in heard.notes)


def breaking(frames, net):
    for frame in frames:
        if frame.index > 3:
            raise RuntimeError("broke half-way")
        yield frame, Detections.empty(frame.size)


def test_a_rung_that_fails_leaves_the_others_intact(monkeypatch):
    import os

    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    broken = Rung("broken", 1, breaking, Preparation("classify"), None, "resnet_pil_cpu", "a test")
    result = run_benchmark([broken, rung("resnet_pil_cpu")], workload=WORK, plan=PLAN, rounds=None)
    assert [run.rung for run in result.runs] == ["resnet_pil_cpu"]
    assert "broke half-way" in result.skipped["broken"]


@pytest.mark.parametrize(
    ("error", "failed"), [(WorkerError("the exam broke"), True), (UnavailableError("no torchmetrics"), False)]
)
def test_a_rung_whose_accuracy_cannot_be_had_is_measured_all_the_same(monkeypatch, error, failed):
    monkeypatch.setattr(run_module, "evaluate", mock.Mock(side_effect=error))
    heard = Heard()
    result = run_benchmark(
        [rung("resnet_pil_cpu")], workload=WORK, plan=PLAN, rounds=None, scenes=2, reporter=heard
    )
    assert result.runs[0].accuracy == {}
    assert any(str(error) in note for note in heard.notes)
    assert ("accuracy of resnet_pil_cpu" in result.skipped) == failed


def test_paced_runs_count_what_they_drop():
    plan = Plan("paced", seconds=1.0, fps=500, warm_frames=2, warm_s=0, warm_limit_s=1, quick=True)
    run = run_benchmark([rung("resnet_pil_cpu")], workload=WORK, plan=plan, rounds=None).runs[0]
    assert run.scenario == "paced"
    assert run.offered == 500
    assert run.dropped > 0
    assert run.settings["paced_fps"] == 500


def test_a_rung_is_also_fed_at_given_rates(capsys):
    from labkit.cli.show_bench import show

    paced = [replace(PLAN, scenario="paced", fps=fps) for fps in (100.0, 20.0)]
    result = run_benchmark([rung("resnet_pil_cpu")], workload=WORK, plan=PLAN, paced=paced, rounds=None)
    assert [run.fed for run in result.runs] == ["closed", "100 FPS", "20 FPS"]
    assert result.run("resnet_pil_cpu") is result.runs[0]
    table = result.paced()
    assert list(table["fed"]) == ["closed", "20 FPS", "100 FPS"] and table["times_closed"][0] == 1
    closed, slow = (result.runs[k].percentile_ms(50) for k in (0, 2))
    assert table["times_closed"][1] == pytest.approx(slow / closed, abs=1e-3)
    assert result.runs[2].offered == 6 and "at 20 FPS" in result.plot("paced").alt_text
    assert (table["cpu_ms"] > 0).all()
    assert list(result.table()["fed"]) == ["closed", "100 FPS", "20 FPS"]
    show(result)
    shown = capsys.readouterr().out
    assert "20 FPS" in shown and ("not measurable here: " in shown) == bool(result.runs[0].why_no_energy)
    assert str(result).count("Energy per frame is not measurable") <= 1


def test_long_runs_at_a_rate_have_frames_enough_for_a_99th_percentile():
    assert run_module._paced(FULL, 10.0, long=True).seconds * 10 >= 662
    assert run_module._paced(FULL, 10.0, long=False).seconds == FULL.seconds
    assert run_module._paced(FULL, 1000.0, long=True).seconds == FULL.seconds
    with pytest.raises(UsageError, match="for one rate alone"):
        bench("resnet_pil_cpu", scenario="paced", fps=5, paced=[10])


def test_comparing_two_by_name():
    """Each of them by two processes, one after the other."""
    twice = replace(ROUNDS, processes=2)
    result = run_comparison("resnet_opencv_cpu", "resnet_linear_cpu", workload=WORK, rounds=twice)
    assert (result.a, result.b) == ("resnet_opencv_cpu", "resnet_linear_cpu")
    assert result.agreement.reference == "resnet_pil_cpu"


def test_bad_requests_are_said_before_anything_runs():
    with pytest.raises(UsageError, match="no rung"):
        run_benchmark([])
    with pytest.raises(SourceError, match="nowhere"):
        run_benchmark([rung("resnet_pil_cpu")], source="nowhere.mp4", workload=WORK)


OPTIONS = "source size fit objects model_set detector classifier weights seed open_timeout_s read_timeout_s"
FACE = {
    "bench": (["resnet_pil_cpu"], f"seconds minutes noise paced progress stage device {OPTIONS}"),
    "compare": (["resnet_pil_cpu", "resnet_opencv_cpu"], f"rounds progress {OPTIONS}"),
    "check": ([lambda image: 0, "resnet_opencv_cpu"], f"frames {OPTIONS}"),
    "profile": (["resnet_pil_cpu"], f"frames engine {OPTIONS.removeprefix('source ')}"),
    "pipeline": (["resnet_pil_cpu"], f"frames {OPTIONS}"),
    "live": (
        ["scenes"],
        "rung compare size threshold objects stills model_set detector classifier weights fit",
    ),
    "open_source": (["scenes"], "size fit noise fps limit open_timeout_s read_timeout_s"),
}


@pytest.mark.parametrize("function", FACE)
def test_a_value_of_another_kind_is_refused_in_a_sentence(function):
    given, names = FACE[function]
    for name in names.split():
        for wrong in (object(), ["no", "such"], "no such"):
            print(name, wrong)
            with pytest.raises(LabError):
                getattr(labkit, function)(*given, **{name: wrong})


@pytest.mark.parametrize("wrong", [object(), ["no", "such"], 7.5])
@pytest.mark.parametrize("function", [labkit.history, labkit.solution, labkit.open_source])
def test_what_is_no_name_is_refused_in_a_sentence(function, wrong):
    with pytest.raises(UsageError):
        function(wrong)


def test_families_share_their_work_filter_included():
    names = ["folded_cpu", "filter_opencv_cpu", "filter_numba_cpu", "detr_pil_cpu", "batched_cpu"]
    groups = [[row.name for row in family] for family in run_module._groups([rung(name) for name in names])]
    assert groups == [
        ["folded_cpu", "batched_cpu"], ["filter_opencv_cpu", "filter_numba_cpu"], ["detr_pil_cpu"]
    ]  # fmt: skip
    with pytest.raises(UnavailableError, match=r"combined; combined, smoothed \(radius 4 px, eps 0.01\)"):
        run_comparison("folded_cpu", "filter_opencv_cpu", workload=WORK, rounds=ROUNDS)


FIRST = ["detr_pil_cpu", "detr_opencv_cpu", "baseline_combined_cpu", "lut_cpu", "folded_cpu"]
ON_GPU = ["baseline_combined_cuda", "half_cuda", "graph_cuda"]


@pytest.mark.parametrize(
    ("soon", "late", "groups"),
    [
        (FIRST, ["peer_onnxruntime_fp32", "peer_pipeline_cpu", "peer_shipped_cpu"], [
            FIRST[:2], FIRST[2:], ["baseline_combined_cpu", "folded_cpu", "peer_onnxruntime_fp32"],
            ["detr_pil_cpu", "peer_pipeline_cpu"], ["peer_shipped_cpu"],
        ]),
        (ON_GPU, ["compiled_cuda", "ahead_cuda", "filter_device_cuda"], [
            ON_GPU, ["filter_device_cuda"],
            ["baseline_combined_cuda", "graph_cuda", "compiled_cuda", "ahead_cuda"],
        ]),
    ],
    ids=["peers", "what compiles for minutes"],
)  # fmt: skip
def test_where_time_is_short_some_come_last_beside_what_they_are_compared_with(soon, late, groups):
    found = run_module._groups([rung(name) for name in soon + late], short_of_time=True)
    assert [[row.name for row in group] for group in found] == groups


def test_a_rung_that_was_measured_before_is_only_compared(monkeypatch):
    first, second, third = (rung(f"resnet_{name}_cpu") for name in ("pil", "opencv", "linear"))
    monkeypatch.setattr(run_module, "_groups", lambda *_, **__: [[first], [first, second]])
    result = run_benchmark([first, second], workload=WORK, plan=PLAN, rounds=ROUNDS)
    assert [run.rung for run in result.runs] == [first.name, second.name]
    assert [(c.a, c.b) for c in result.comparisons] == [(first.name, second.name)]
    assert run_module._pairs([first, second, third], {first.name, second.name}) == [
        (second.name, third.name), (first.name, third.name)
    ]  # fmt: skip
    assert run_module._pairs([first, second], {first.name, second.name}) == []


def set_clock(monkeypatch, now):
    """The clock by which a benchmark ends. All others run: whoever measures waits for them to go on."""
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    for module in (context_module, run_module):
        monkeypatch.setattr(module, "time", clock)


def test_what_does_not_fit_into_the_time_is_left_out_and_told(monkeypatch):
    now = [0.0]
    set_clock(monkeypatch, now)
    monkeypatch.setattr(run_module, "_check", lambda *_: now.__setitem__(0, 1e9) or perfect())
    rungs = [rung("resnet_pil_cpu"), rung("resnet_opencv_cpu")]
    result = run_benchmark(rungs, workload=WORK, plan=PLAN, rounds=ROUNDS, minutes=1)
    assert [run.rung for run in result.runs] == ["resnet_pil_cpu"]  # what had begun is finished
    assert "reached its time limit" in result.skipped["resnet_opencv_cpu"]


def test_what_was_measured_before_the_time_was_up_is_not_left_out(monkeypatch, capsys):
    from labkit.cli.show_bench import show

    now = [0.0]
    set_clock(monkeypatch, now)
    monkeypatch.setattr(run_module, "_check", lambda *_: now.__setitem__(0, 1e9) or perfect())
    first, second = rung("resnet_pil_cpu"), rung("resnet_opencv_cpu")
    monkeypatch.setattr(run_module, "_groups", lambda *_, **__: [[first], [first, second]])
    result = run_benchmark([first, second], workload=WORK, plan=PLAN, rounds=ROUNDS, minutes=1)
    assert list(result.skipped) == [second.name]
    show(result)
    assert "labkit bench resnet_opencv_cpu" in " ".join(capsys.readouterr().out.split())


def test_what_begins_during_a_benchmark_marks_what_is_measured_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.core.lock._folder", lambda: tmp_path)  # other tests run benchmarks meanwhile

    class Meanwhile(Heard):
        def step(self, text):
            if text == "resnet_opencv_cpu: measuring":
                view.enter_context(machine_lock("a live view"))

    rungs = [rung("resnet_pil_cpu"), rung("resnet_opencv_cpu")]
    with ExitStack() as view:
        result = run_benchmark(rungs, workload=WORK, plan=PLAN, rounds=ROUNDS, reporter=Meanwhile())
    seen = f"a live view (process {os.getpid()}) was running"
    assert [seen in each.disturbances for each in (*result.runs, *result.comparisons)] == [False, True, True]
    assert not any("a benchmark" in reason for each in result.runs for reason in each.disturbances)


def test_time_is_kept_for_comparing_what_has_been_measured(monkeypatch):
    """The third rung would begin in time, but the comparison of the first two would not."""
    now = [0.0]
    set_clock(monkeypatch, now)
    rungs = [rung("resnet_pil_cpu"), rung("resnet_opencv_cpu"), rung("resnet_linear_cpu")]
    checked = iter([0.0, 59.99])
    monkeypatch.setattr(run_module, "_check", lambda *_: now.__setitem__(0, next(checked)) or perfect())
    result = run_benchmark(rungs, workload=WORK, plan=PLAN, rounds=ROUNDS, minutes=1)
    assert [run.rung for run in result.runs] == ["resnet_pil_cpu", "resnet_opencv_cpu"]
    assert "reached its time limit" in result.skipped["resnet_linear_cpu"]
    assert [(c.a, c.b) for c in result.comparisons] == [("resnet_pil_cpu", "resnet_opencv_cpu")]


@pytest.mark.parametrize(("until_s", "processes"), [(600.0, 3), (65.0, 1)])
def test_fresh_processes_are_given_up_where_later_rungs_need_the_time(monkeypatch, until_s, processes):
    """After two rungs in 40 s a third is expected to take 20 s more, and the rounds 10 s."""
    now = [0.0]
    set_clock(monkeypatch, now)
    rounds = replace(ROUNDS, processes=3)
    context = context_module.Context(None, WORK, {}, PLAN, rounds, {}, None, None, None, until_s=until_s)
    now[0] = 40.0
    assert context.rounds_in_time(10.0, n_measured=2, to_come=1).processes == processes


def test_the_expected_length_of_rounds_is_their_length():
    class Steady:
        def __init__(self, pace_s):
            self.pace_s = pace_s

        def time_frames(self, n_frames):
            spent[0] += (n_frames + 1) * self.pace_s
            return self.pace_s

    for plan in (QUICK_ROUNDS, FULL_ROUNDS, RoundPlan(rounds=9, frames=3)):
        spent, pace = [0.0], {"a": 0.75, "b": 0.1, "c": 0.03}
        steady = {name: Steady(s) for name, s in pace.items()}
        time_interleaved(steady, plan, renew=lambda steady=steady: steady)
        assert plan.expected_s(list(pace.values())) == pytest.approx(spent[0])
    assert QUICK_ROUNDS.expected_s([0.75]) == 0.0


def test_from_the_command_to_the_timed_run_are_eight_functions_in_four_files(monkeypatch, tmp_path):
    calls = []

    class Pipe:
        def send(self, request):
            if request[0] == "run":
                frames = [each.frame for each in inspect.stack(context=0)]
                calls.extend(f.f_code for f in frames if f.f_globals["__name__"].startswith("labkit."))
                raise KeyboardInterrupt

    class PipeOnly(Worker):
        def __init__(self, rung, *_, **__):
            self.rung, self._connection = rung, Pipe()

        pid = os.getpid()

        def close(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setattr(run_module, "Worker", PipeOnly)
    monkeypatch.setattr(run_module, "_check", lambda *_: perfect())
    monkeypatch.setattr(run_module, "_answer_reference", lambda *_: None)
    options = "--source scenes --size 64x64 --model-set lab --no-accuracy --quick"
    with pytest.raises(SystemExit, match="130"):
        main(["bench", "detr_opencv_cpu", *options.split()])
    assert calls[-1] is main.__code__
    assert len(calls) <= 8
    assert len({code.co_filename for code in calls}) <= 4


def perfect():
    return Agreement("resnet_pil_cpu", 1, 1.0, None, 0.0, 0)


def test_what_runs_otherwise_than_it_is_called_is_told(monkeypatch):
    instead = {"bf16": "float32 here"}
    monkeypatch.setattr(run_module, "fallback", lambda prepare: instead.get(prepare.precision))
    monkeypatch.setattr(run_module, "unmet_requirement", lambda needs: None)
    heard, found = [], ResultSet()
    reporter = SimpleNamespace(note=heard.append)
    rungs = [rung("cpu_engine_fp32"), rung("cpu_engine_bf16")]
    assert run_module._runnable(rungs, found, reporter) == rungs
    assert heard == ["cpu_engine_bf16: float32 here"] and not found.skipped


@pytest.mark.parametrize("function", [labkit.bench, labkit.live, labkit.open_source])
def test_what_has_one_name_has_one_default_in_python_and_on_the_command_line(function):
    options = {name.replace("timeout", "timeout_s"): default for name, (_, default, _) in _WORK.items()}
    options["size"] = parse_size(options["size"])
    if function is labkit.live:
        options["model_set"] = None  # it takes what there is
    for name, parameter in inspect.signature(function).parameters.items():
        if name in options and parameter.default is not parameter.empty:
            assert parameter.default == options[name], name
