"""Records a machine: what stands in results/reference/MACHINE, part by part; hours on two quiet cores.

    python .ci/record.py results/reference/MACHINE [PART ...] [-- OPTION ...]

Each part is measured into a store of its own and then written whole, so it can be measured again by itself.
What stands behind `--` goes to every benchmark, as `--quick` does. On a CPU with other instructions (AMX,
say) the same parts tell what the record of another machine cannot.

    bench      all rungs of the CPU, with accuracy
    boxes      the climb at 15 boxes per frame
    paced      rungs fed at the rates of a camera
    int8       the ways to quantise
    peers      direct scripts at each precision against the lab's rung (the last one needs torchao)
    detectors  other detectors in each precision
    beside     boxes followed, operators against the peak, the cost of spans, the guided filter
    accuracy   losses of single changes, and of the ways to quantise: of the software, not of the machine
    page       plots, and the page beside the folder
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from labkit.models.detectors.catalogue import detectors
from labkit.pipelines.ladder import STAGE_6_INT8

ROOT = Path(__file__).resolve().parents[1]
CLIMB = (
    "baseline_combined_cpu", "combined_cpu", "batched_cpu", "lut_cpu", "folded_cpu", "cpu_engine_fp32",
    "cpu_engine_bf16", "cpu_engine_int8", "cpu_engine_int8_mixed", "peer_onnxruntime_fp32",
)  # fmt: skip
FED = (
    "folded_cpu", "cpu_engine_bf16", "peer_onnxruntime_fp32", "spin_cpu", "spin_onnxruntime",
    "awake_engine_bf16", "peer_compile_bf16",
)  # fmt: skip
QUANTISED = (
    "baseline_combined_cpu", "cpu_engine_bf16", "cpu_engine_int8", "cpu_engine_int8_mixed",
    *(rung.name for rung in STAGE_6_INT8),
)  # fmt: skip
DETECT = (
    "detr_opencv_cpu", "detr_engine_fp32", "detr_engine_bf16", "detr_engine_int8", "detr_engine_int8_mixed",
)  # fmt: skip
PEERS = (
    "openvino_fp32", "onnxruntime_fp32", "compiled_fp32", "openvino_bf16", "compiled_bf16", "openvino_int8",
    "onnxruntime_int8", "compiled_int8",
)  # fmt: skip

BENCHMARKS: dict[str, tuple[str, list[list[str]]]] = {
    "bench": ("", [["bench", "--device", "cpu"]]),
    "boxes": ("15-boxes", [["bench", *CLIMB, "--objects", "15", "--no-accuracy"]]),
    "paced": ("paced", [["bench", *FED, "--model-set", "lab", "--paced", "10,15,30", "--no-accuracy",
                         "--no-compare"]]),
    "int8": ("int8", [["bench", *QUANTISED]]),
    "peers": ("peers", [["compare", f"cpu_engine_{peer.partition('_')[2]}", f"tests/direct_loops.py:{peer}"]
                        for peer in PEERS]),
    "detectors": ("detectors", [["bench", *DETECT, "--no-accuracy", "--detector", name]
                                for name in ("detr_r50", *detectors())]),
}  # fmt: skip
"""Folder and benchmarks of each part that is kept in a store."""


def _others(folder: Path) -> dict[str, list[list[str]]]:
    """The commands of the parts that write their files themselves."""
    return {
        "beside": [
            ["labkit", "tracking", "--model-set", "full", "--out", f"{folder}"],
            ["labkit.profiling.operators", *DETECT[2:4], "--out", f"{folder / 'operators.json'}"],
            ["labkit.lessons.pitfalls.overhead", f"{folder}"],
            ["labkit", "filters", "--rounds", "31", "--out", f"{folder}"],
        ],
        "accuracy": [
            ["labkit.lessons.nb06_accuracy", "--out", f"{folder.parent / 'accuracy'}", *which]
            for which in ((), ("--ways", "--scenes", "300"))
        ],
        "page": [["labkit.results.readme", f"{folder}"]],
    }


PARTS = (*BENCHMARKS, *_others(Path()))


def commands(part: str, folder: Path, options: Sequence[str] = ()) -> list[list[str]]:
    """Modules with their arguments, to be run one after another."""
    if part not in BENCHMARKS:
        return _others(folder)[part]
    place, benchmarks = BENCHMARKS[part]
    measure = [["labkit", *benchmark, *options] for benchmark in benchmarks]
    return [*measure, ["labkit", "results", "export", f"{folder / place}"]]


def record(part: str, folder: Path, options: Sequence[str]) -> bool:
    """Measures and writes one part; False if one of its commands failed."""
    with tempfile.TemporaryDirectory(prefix="labkit-record-") as home:
        worked = [
            subprocess.run(
                [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, "LABKIT_HOME": home}
            ).returncode
            == 0
            for command in commands(part, folder, options)
        ]
    return all(worked)


def main(arguments: Sequence[str]) -> int:
    """Records the parts that are named, or all of them."""
    given, options = list(arguments), []
    if "--" in given:
        given, options = given[: given.index("--")], given[given.index("--") + 1 :]
    unknown = [part for part in given[1:] if part not in PARTS]
    if not given or unknown or given[0].startswith("-"):
        print(__doc__, *(f"there is no part {part}" for part in unknown), sep="\n", file=sys.stderr)
        return 2
    folder = Path(given[0]).resolve()
    failed = [part for part in given[1:] or PARTS if not record(part, folder, options)]
    print(f"not recorded whole: {', '.join(failed)}" if failed else f"recorded in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
