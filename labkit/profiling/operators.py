"""Time of a compiled detector by operator, with each kind's share of the peak.

    python -m labkit.profiling.operators detr_engine_bf16 [--out FILE]

OpenVINO tells how long each operator of its compiled graph took; the shapes of the graph tell how
much arithmetic each kind holds. What falls short of the machine's peak has a name then: operators
that do little arithmetic per byte, and those that do none at all. Runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from labkit.bench.peaks import measure_peaks
from labkit.core.child import SpawnedProcess, environment
from labkit.core.errors import LabError, UnavailableError
from labkit.core.files import write_atomic
from labkit.core.requirements import precision_here
from labkit.core.terminal import print_text
from labkit.core.threads import PASSIVE_WAIT
from labkit.core.types import Workload
from labkit.pipelines.ladder import rung as rung_named
from labkit.results.operator_times import ATTENTION, KINDS, LARGE, POINTWISE, PRODUCTS, REST, Kind, Operators

LONGEST_S = 900

WARM, PASSES = 5, 20


def operators(
    rung: str, workload: Workload | None = None, peaks: Mapping[str, float] | None = None
) -> Operators:
    """Times the detector of a rung by kind of operator, in a fresh process.

    Args:
        rung: one whose engine is OpenVINO.
        workload: model set, weights and frame size.
        peaks: GFLOP/s by precision; measured here where absent.

    Raises:
        UnavailableError: the rung's engine does not tell, or is not installed.
        WorkerError: the process died, or took too long.
    """
    chosen, workload = rung_named(rung), workload or Workload()
    if chosen.prepare.engine != "openvino":
        raise UnavailableError(
            f"{rung} runs on {chosen.prepare.engine}; only OpenVINO's rungs tell how long operators take"
        )
    with SpawnedProcess() as process, environment(PASSIVE_WAIT):  # read as the process starts
        found = process.call(LONGEST_S, _measure, rung, workload)
    kinds = tuple(Kind(name, *found["kinds"][name]) for name in KINDS)
    precision = precision_here(chosen.prepare)
    peak = (peaks if peaks is not None else measure_peaks("cpu")).get(precision)
    return Operators(rung, precision, kinds, found["frame_ms"], peak)


def _measure(rung: str, workload: Workload) -> dict[str, Any]:
    """In the fresh process: {"frame_ms": ..., "kinds": {name: [operators, ms, gflop]}}."""
    import time

    import numpy as np

    from labkit.models.prepare import prepare

    preparation = rung_named(rung).prepare
    counted = {"frames": 1, "count_operators": True}
    prepared = prepare(
        replace(preparation, task="detect", options={**preparation.options, **counted}), workload
    )
    compiled = prepared.net.infer.compiled
    request = compiled.create_infer_request()
    shape = list(compiled.input(0).shape)
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    walls, times = [], []
    for i in range(WARM + PASSES):
        begun = time.perf_counter()
        request.infer([x], share_inputs=True)
        wall_ms = 1e3 * (time.perf_counter() - begun)
        if i >= WARM:
            walls.append(wall_ms)
            times.append(_per_kind_ms(request.profiling_info))
    gflop = _gflop(prepared.net.infer.graph)
    return {
        "frame_ms": float(np.median(walls)),
        "kinds": {
            name: [times[0][name][0], float(np.median([t[name][1] for t in times])), gflop.get(name, 0.0)]
            for name in KINDS
        },
    }


def _per_kind_ms(infos: Any) -> dict[str, tuple[int, float]]:
    """Number of operators that ran, and ms in them, by kind."""
    from openvino import ProfilingInfo

    found = dict.fromkeys(KINDS, (0, 0.0))
    for info in infos:
        if info.status == ProfilingInfo.Status.EXECUTED:
            name = _kind(info.node_type, info.node_name, "_1x1" in info.exec_type)
            count, ms = found[name]
            found[name] = (count + 1, ms + 1e3 * info.real_time.total_seconds())
    return found


def _kind(node_type: str, name: str, one_by_one: bool) -> str:
    """Of an operator that ran. Attention runs as one subgraph, named after a part of its module."""
    if node_type in ("Convolution", "GroupConvolution"):
        return POINTWISE if one_by_one else LARGE
    if node_type.startswith(("MatMul", "FullyConnected")):
        return PRODUCTS
    return ATTENTION if "attn" in name and "aten::add" not in name else REST


def _gflop(graph: Any) -> dict[str, float]:
    """Arithmetic of a graph's operators by kind, from their shapes."""
    found = dict.fromkeys(KINDS, 0.0)
    for op in graph.get_ops():
        if op.get_type_name() == "Convolution":
            _, channels, *window = op.input(1).get_shape()
            found[POINTWISE if prod(window) == 1 else LARGE] += (
                2 * prod(op.output(0).shape) * channels * prod(window)
            )
        elif op.get_type_name() == "MatMul":
            inner = list(op.input(0).get_shape())[-2 if op.get_attributes()["transpose_a"] else -1]
            found[PRODUCTS] += 2 * prod(op.output(0).shape) * inner
        elif op.get_type_name() == "ScaledDotProductAttention":
            query, key, value = (list(op.input(i).get_shape()) for i in range(3))
            found[ATTENTION] += 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return {name: work / 1e9 for name, work in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what it finds of each rung; with --out also writes it to a file, whole."""
    parser = argparse.ArgumentParser(prog="python -m labkit.profiling.operators", description=__doc__)
    parser.add_argument("rung", nargs="+", help="rungs that run on OpenVINO")
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    options = parser.parse_args(arguments)
    try:
        peaks = measure_peaks("cpu")
        found = [operators(rung, peaks=peaks) for rung in options.rung]
        print_text("\n".join(line for each in found for line in each.sentences()))
        if options.out:
            write_atomic(options.out, json.dumps([each.to_json() for each in found], indent=1) + "\n")
    except LabError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
