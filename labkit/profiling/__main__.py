"""Runs some frames of a rung with labkit's capture range around them, for a profiler to watch.

nsys profile -c nvtx -p capture@labkit.profile ... python -m labkit.profiling combined_cpu
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from labkit.core.errors import LabError
from labkit.core.terminal import print_text
from labkit.core.types import Workload
from labkit.profiling.variant import ProfileTarget, run_marked


def main() -> int:
    """Reads the options, runs the frames; errors become one sentence and an exit code."""
    options = _parser().parse_args()
    try:
        width, height = (int(side) for side in options.size.split("x"))
        workload = Workload(
            options.model_set,
            options.weights,
            (width, height),
            options.objects,
            seed=options.seed,
            fit=options.fit,
            detector=options.detector,
            classifier=options.classifier,
        )
        timeouts_s = (options.open_timeout, options.read_timeout)
        target = ProfileTarget(options.rung, workload, options.source, options.frames, timeouts_s)
        run_marked(target, options.notes)
    except LabError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labkit.profiling", description=__doc__)
    parser.add_argument("rung")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--source", default="photos")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--fit", default="letterbox")
    parser.add_argument("--open-timeout", type=float, default=5.0)
    parser.add_argument("--read-timeout", type=float, default=2.0)
    parser.add_argument("--objects", type=int, default=5)
    parser.add_argument("--model-set", default="full")
    parser.add_argument("--detector")
    parser.add_argument("--classifier")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notes", type=Path, required=True, help="where the ranges sent are listed")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
