"""Fingerprints of unlike machines, control groups, threads by quota."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit.bench import doctor
from labkit.core import cgroup, cpu, threads
from labkit.core import machine as machine_module
from labkit.core.files import recorded_folder
from labkit.core.machine import (
    fingerprint,
    fingerprint_differences,
    fingerprint_unknowns,
    machine_name,
    speed_facts,
)
from labkit.results.history import History
from labkit.results.report.machines import machines, what_differs

from records_made_up import made_up_run  # isort: skip

XEON = {
    "cpu": "Intel(R) Xeon(R) Processor",
    "cpu_model": "6/143",
    "cores": 8,
    "quota_cores": None,
    "memory_limit_gib": None,
    "isa": {"avx2": True, "avx512f": True, "avx512_vnni": True, "amx_bf16": True, "amx_int8": True},
    "clock": {"governor": "performance", "limit_mhz": 3500, "boost": True},
    "power": {"plan": "balanced", "battery": False},
    "gpu": {"name": "RTX 4070 Laptop", "power_limit_w": 115.0, "temperature_c": 50, "sm_clock_mhz": 1500},
    "os": "Linux 6.8.0-45-generic",
    "python": "3.12.4",
    "container": False,
    "versions": {"torch": "2.6.0", "numpy": "2.1.0"},
    "math": {"numpy": "scipy-openblas 0.3.27", "torch": "mkl 2024.2 MKL-DNN v3.5.3", "openmp": "libgomp"},
    "threads": {"torch": 8, "OMP_NUM_THREADS": None},
    "environment": {},
    "load_1min": 0.1,
    "time": "2026-11-01T00:00:00Z",
    "commit": "abc",
}
NO_AMX = XEON["isa"] | {"amx_bf16": False, "amx_int8": False}
SEEDED = {
    "AMX is off": ({"isa": NO_AMX}, ["the other machine has no amx_bf16, amx_int8"]),
    "AMX is off in the libraries": (
        {"environment": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}},
        ["ONEDNN_MAX_CPU_ISA: none / AVX512_CORE"],
    ),
    "a quota": ({"quota_cores": 2.0}, ["CPU quota: none / 2.0"]),
    "a memory limit": ({"memory_limit_gib": 2.0}, ["memory limit: none / 2.0"]),
    "the governor": (
        {"clock": XEON["clock"] | {"governor": "powersave"}},
        ["clock governor: performance / powersave"],
    ),
    "a frequency cap": ({"clock": XEON["clock"] | {"limit_mhz": 2000}}, ["clock limit in MHz: 3500 / 2000"]),
    "no boost": ({"clock": XEON["clock"] | {"boost": False}}, ["clock boost: yes / no"]),
    "another BLAS": (
        {"math": XEON["math"] | {"numpy": "mkl 2024.2"}},
        ["numpy's library: scipy-openblas 0.3.27 / mkl 2024.2"],
    ),
    "another OpenMP": (
        {"math": XEON["math"] | {"openmp": "libiomp5"}},
        ["openmp's library: libgomp / libiomp5"],
    ),
    "threads": ({"threads": {"torch": 4, "OMP_NUM_THREADS": None}}, ["threads torch: 8 / 4"]),
    "the power plan": ({"power": {"plan": "quiet", "battery": False}}, ["power plan: balanced / quiet"]),
    "the battery": ({"power": {"plan": "balanced", "battery": True}}, ["power battery: no / yes"]),
    "another torch": ({"versions": {"torch": "2.7.0", "numpy": "2.1.0"}}, ["torch: 2.6.0 / 2.7.0"]),
    "a container": ({"container": True}, ["container: no / yes"]),
    "the GPU's power": (
        {"gpu": XEON["gpu"] | {"power_limit_w": 80.0}},
        ["GPU power limit in W: 115 / 80"],
    ),
    # the same machine: these change no speed, or only that of runs which are marked as noisy by themselves
    "cooling": ({"gpu": XEON["gpu"] | {"temperature_c": 87, "sm_clock_mhz": 900}}, []),
    "a kernel's build": ({"os": "Linux 6.8.0-51-generic"}, []),
    "a newer kernel": ({"os": "Linux 6.11.2"}, []),
    "a package that only one has": ({"versions": XEON["versions"] | {"tensorrt": "11.0"}}, []),
    "load, time and commit": ({"load_1min": 9.0, "time": "2026-11-02", "commit": "def"}, []),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_differences_are_told_apart_or_as_the_same(name):
    change, lines = SEEDED[name]
    other = XEON | change
    assert fingerprint_differences(XEON, other) == lines
    assert bool(fingerprint_differences(other, XEON)) == bool(lines)
    assert fingerprint_unknowns(XEON, other) == []
    assert (speed_facts(XEON) == speed_facts(other)) == (not lines) or name.startswith("a package")
    runs = [
        made_up_run(fingerprint=mark, created=f"2026-11-0{k}T00:00:00") for k, mark in ((1, XEON), (2, other))
    ]
    assert len(machines(runs)) == (2 if lines else 1)
    said = str(History("opencv", tuple(runs)))
    assert ("no earlier run did the same work on this kind of machine" in said) == bool(lines)


def test_the_sentence_names_the_machine_that_has_more():
    assert fingerprint_differences(XEON | {"isa": NO_AMX}, XEON) == [
        "the other machine has amx_bf16, amx_int8"
    ]
    runs = [made_up_run(fingerprint=XEON | {"isa": NO_AMX}), made_up_run(fingerprint=XEON)]
    there = machines(runs)
    assert what_differs(there) == [(there[1], ["B has amx_bf16, amx_int8"])]
    assert [each.name for each in there] == [
        "Intel(R) Xeon(R) Processor, 8 cores, RTX 4070 Laptop",
        "Intel(R) Xeon(R) Processor, 8 cores, AMX, RTX 4070 Laptop",
    ]
    said = str(History("opencv", tuple(runs)))
    assert "that machine has no amx_bf16, amx_int8" in said


def test_names_tell_what_bounds_a_machine():
    gpu = XEON["gpu"] | {"power_limit_w": 80.0, "power_default_w": 115.0}
    bound = XEON | {"quota_cores": 1.5, "gpu": gpu}
    assert machine_name(bound, "cpu") == "Intel(R) Xeon(R) Processor, 8 cores (1.5 by quota), AMX"
    assert machine_name(bound, "cuda") == "RTX 4070 Laptop at 80 W"


def test_older_fingerprints_stay_comparable_and_say_what_is_unknown():
    old = {
        "cpu": XEON["cpu"], "cores": 8, "quota_cores": None, "gpu": XEON["gpu"], "os": "Linux 6.1.0",
        "isa": ["avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8"], "python": "3.12.4",
        "versions": XEON["versions"], "threads": XEON["threads"],
    }  # fmt: skip
    assert fingerprint_differences(old, XEON) == fingerprint_differences(XEON, old) == []
    unknown = fingerprint_unknowns(old, XEON)
    assert {"memory limit", "power plan", "BLAS and OpenMP", "container"} <= set(unknown)
    assert fingerprint_differences(old, XEON | {"isa": NO_AMX})  # this much old ones did know
    (machine,) = machines([made_up_run(fingerprint=mark) for mark in (old, XEON)])
    assert set(machine.unknown) == set(unknown)
    runs = [
        made_up_run(fingerprint=mark, created=f"2026-11-0{k}T00:00:00") for k, mark in ((1, old), (2, XEON))
    ]
    assert "only one of them says: model of the processor, memory limit" in str(
        History("opencv", tuple(runs))
    )
    # an old record joins one machine, and makes no one machine of two that differ
    slow = XEON | {"clock": XEON["clock"] | {"governor": "powersave"}}
    assert len(machines([made_up_run(fingerprint=mark) for mark in (old, XEON, slow)])) == 2


def test_what_was_recorded_elsewhere_compares_with_fingerprints_of_today():
    here = fingerprint()
    for path in recorded_folder().glob("*/runs.parquet"):
        mark = json.loads((path.parent / "fingerprint.json").read_text())["fingerprint"]
        assert not any("None" in line for line in fingerprint_differences(mark, here))
        assert ("BLAS and OpenMP" in fingerprint_unknowns(mark, here)) == ("math" not in mark)


def test_results_lists_machines_that_differ_and_what_is_unknown(capsys):
    from labkit.cli.main import main
    from labkit.results.store import Store, default_path

    old = {key: value for key, value in XEON.items() if key not in ("power", "environment")}
    with Store(default_path()) as store:
        for mark in (old, XEON, XEON | {"isa": NO_AMX}):
            store.add(made_up_run(fingerprint=mark))
    with pytest.raises(SystemExit):
        main(["results"])
    said = " ".join(capsys.readouterr().out.split())
    assert "whose speeds do not compare" in said
    assert "B has no amx_bf16, amx_int8" in said
    assert "Unknown of some of these runs: libraries' environment, power plan" in said


def test_libraries_and_their_environment_are_read(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2:/opt/intel/libiomp5.so")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    mark = fingerprint()
    assert mark["environment"] == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "LD_PRELOAD": "libjemalloc.so.2 libiomp5.so",
    }
    assert mark["math"]["torch"]
    assert fingerprint_differences(mark, {**mark, "time": "later", "load_1min": 7.0}) == []


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_settings_of_clock_power_and_instruction_sets_are_read(tmp_path):
    cores = "sys/devices/system/cpu/cpu{}/cpufreq/"
    files = {
        "proc/cpuinfo": "model name : X\ncpu family : 6\nmodel : 143\nflags : fpu avx2 amx_bf16 other",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
        "sys/firmware/acpi/platform_profile": "low-power",
        "sys/class/power_supply/BAT0/capacity": "80",
        "sys/class/power_supply/AC/online": "0",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        "sys/class/hwmon/hwmon0/name": "coretemp",
        "sys/class/hwmon/hwmon0/temp1_input": "71000",
    }
    for core, clock in ((0, 800_000), (1, 3_100_000)):
        files |= {
            cores.format(core) + "scaling_governor": "powersave",
            cores.format(core) + "scaling_max_freq": "3500000",
            cores.format(core) + "scaling_cur_freq": str(clock),
        }
    root = write(tmp_path, files)
    has = cpu.instruction_sets(root)
    assert (has["avx2"], has["amx_bf16"], has["amx_int8"]) == (True, True, False)
    assert cpu.cpu_model(root) == "6/143"
    assert cpu.clock_settings(root) == {"governor": "powersave", "limit_mhz": 3500, "boost": False}
    assert cpu.power_settings(root) == {"plan": "low-power", "battery": True}
    assert (cpu.clock_mhz(root), cpu.heat_stops(root), cpu.temperature_c(root)) == (3100.0, 3, 71.0)
    arm = write(
        tmp_path / "arm", {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp bf16 i8mm sve"}
    )
    has = cpu.instruction_sets(arm)
    assert (has["asimddp"], has["i8mm"], has["sme"], has["avx2"]) == (True, True, False, False)
    empty = tmp_path / "nothing"
    assert cpu.clock_settings(empty) == cpu.power_settings(empty) == {}
    assert cpu.clock_mhz(empty) is cpu.heat_stops(empty) is cpu.temperature_c(empty) is None


GIB = 2**30
V2 = "30 25 0:26 {shown} /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate"
V1 = (
    "31 30 0:27 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)


def group_v2(tmp_path, *, shown="/", own="/job/step"):
    """One group in another: the outer has the smaller quota, the inner the smaller memory."""
    return write(
        tmp_path,
        {
            "proc/self/mountinfo": V2.format(shown=shown),
            "proc/self/cgroup": f"0::{own}",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/job/cpu.max": "150000 100000",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 9\nnr_periods 100\nnr_throttled 40\nthrottled_usec 9",
            "sys/fs/cgroup/job/memory.max": str(8 * GIB),
            "sys/fs/cgroup/job/memory.current": str(GIB),
            "sys/fs/cgroup/job/step/cpu.max": "max 100000",
            "sys/fs/cgroup/job/step/memory.max": str(2 * GIB),
            "sys/fs/cgroup/job/step/memory.high": "max",
            "sys/fs/cgroup/job/step/memory.current": str(GIB),
            "sys/fs/cgroup/job/step/memory.stat": f"anon 5\ninactive_file {GIB // 4}",
        },
    )


def test_limits_of_nested_groups_of_version_2(tmp_path):
    root = group_v2(tmp_path)
    assert cgroup.quota_cores(root) == 1.5
    assert cgroup.memory_limit(root) == 2 * GIB
    assert cgroup.memory_left(root) == GIB + GIB // 4
    before = cgroup.throttling(root)
    write(root, {"sys/fs/cgroup/job/cpu.stat": "nr_periods 120\nnr_throttled 45"})
    assert cgroup.stopped_share(before, cgroup.throttling(root)) == 0.25
    assert cgroup.stopped_share(before, before) == 0.0
    write(root, {"sys/fs/cgroup/job/memory.current": str(8 * GIB)})  # neighbours in the outer group
    assert cgroup.memory_left(root) == 0


@pytest.mark.parametrize(
    ("shown", "own"),
    [("/", "/job/step"), ("/outer", "/outer/job/step"), ("/", "/job/step/")],
    ids=["host", "a part is mounted", "slash"],
)
def test_the_own_group_is_found_under_its_mount(tmp_path, shown, own):
    assert cgroup.memory_limit(group_v2(tmp_path, shown=shown, own=own)) == 2 * GIB


@pytest.mark.parametrize("own", ["/", "/../elsewhere", "/host/only/path"])
def test_a_group_that_is_not_seen_from_here_is_bounded_by_its_mount(tmp_path, own):
    root = group_v2(tmp_path, own=own)
    write(root, {"sys/fs/cgroup/memory.max": str(3 * GIB), "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert (cgroup.memory_limit(root), cgroup.quota_cores(root)) == (3 * GIB, 0.5)


def test_limits_of_nested_groups_of_version_1(tmp_path):
    memory, cores = "sys/fs/cgroup/memory/docker", "sys/fs/cgroup/cpu,cpuacct/docker"
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1.format(shown="/"),
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x",
            f"{memory}/memory.limit_in_bytes": str(4 * GIB),
            f"{memory}/memory.usage_in_bytes": str(3 * GIB),
            f"{memory}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
            f"{memory}/abc/memory.limit_in_bytes": "9223372036854771712",
            f"{memory}/abc/memory.usage_in_bytes": str(GIB),
            f"{cores}/cpu.cfs_quota_us": "-1",
            f"{cores}/cpu.cfs_period_us": "100000",
            f"{cores}/abc/cpu.cfs_quota_us": "250000",
            f"{cores}/abc/cpu.cfs_period_us": "100000",
            f"{cores}/abc/cpu.stat": "nr_periods 10\nnr_throttled 5\nthrottled_time 12",
        },
    )
    assert cgroup.quota_cores(root) == 2.5
    assert (cgroup.memory_limit(root), cgroup.memory_left(root)) == (4 * GIB, 2 * GIB)
    assert cgroup.stopped_share({}, cgroup.throttling(root)) == 0.5


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert (
        cgroup.quota_cores(tmp_path) is cgroup.memory_limit(tmp_path) is cgroup.memory_left(tmp_path) is None
    )
    assert cgroup.throttling(tmp_path) == {}
    broken = write(tmp_path, {"proc/self/mountinfo": "what\n - cgroup2", "proc/self/cgroup": "no colons"})
    assert cgroup.quota_cores(broken) is None


def test_free_memory_is_that_of_the_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_module, "memory_left", lambda: 12345)
    assert machine_module.available_memory() == 12345


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (16.0, 8), (2.5, 2), (0.4, 1)])
def test_threads_are_as_many_as_the_quota_allows(monkeypatch, quota, cores):
    monkeypatch.setattr(threads, "affinity_cores", lambda: 8)
    monkeypatch.setattr(threads, "quota_cores", lambda: quota)
    for name in threads.THREAD_COUNTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")  # the user's own
    assert threads.available_cores() == cores
    told = threads.worker_environment()
    assert "MKL_NUM_THREADS" not in told
    counts = {told[name] for name in threads.THREAD_COUNTS if name in told}
    assert counts == (set() if cores == 8 else {str(cores)})
    assert told["OMP_WAIT_POLICY"] == "passive"
    assert threads.worker_environment(spin=True) == told | threads.ACTIVE_WAIT


LIBRARIES = """
import json, sys
import cv2, numba, torch
from labkit.core import threads
threads.quota_cores, threads.affinity_cores = lambda: 1.2, lambda: 2
if sys.argv[1] == "here":
    threads.bound_threads()
print(json.dumps([torch.get_num_threads(), cv2.getNumThreads(), numba.get_num_threads()]))
"""


@pytest.mark.parametrize("where", ["here", "by the environment"])
def test_libraries_take_their_threads_from_the_quota(monkeypatch, where):
    monkeypatch.setattr(threads, "affinity_cores", lambda: 64)
    monkeypatch.setattr(threads, "quota_cores", lambda: 1.2)
    environment = os.environ | (threads.worker_environment() if where != "here" else {})
    command = [sys.executable, "-c", LIBRARIES, where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts[:2] == [1, 1]
    assert where == "here" or counts[2] == 1


def test_a_processor_without_a_name_has_its_makers_numbers(monkeypatch):
    facts = {"CPU implementer": "0x41", "CPU part": "0xd0c"}
    monkeypatch.setattr(cpu, "_cpuinfo", lambda *_: facts)
    monkeypatch.setattr(cpu.platform, "processor", lambda: "aarch64")
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    assert cpu.cpu_name() == "aarch64 0x41/0xd0c"
    facts.clear()
    assert cpu.cpu_name() == "aarch64"


@pytest.mark.parametrize(("free_gib", "state"), [(3.9, "note"), (4.1, "good")])
def test_little_free_memory_is_told(monkeypatch, free_gib, state):
    monkeypatch.setattr(machine_module, "available_memory", lambda: int(free_gib * 2**30))
    assert doctor._memory().state == state


def test_memory_is_told_to_a_tenth_of_a_gib(monkeypatch):
    memory = SimpleNamespace(total=15.5 * 2**30)
    monkeypatch.setattr(machine_module, "psutil", SimpleNamespace(virtual_memory=lambda: memory))
    assert machine_module._fixed.__wrapped__()["memory_gib"] == 15.5
