"""Runs some frames of a rung with labkit's capture range around them, for a profiler to watch.

nsys profile -c nvtx -p capture@labkit.profile ... python -m labkit.profiling JOB NOTES

JOB is a `ProfileTarget` as JSON; the ranges that were sent are listed in the file NOTES.
"""

from __future__ import annotations

import sys
from pathlib import Path

from labkit.core.errors import LabError
from labkit.core.terminal import print_text
from labkit.profiling.variant import ProfileTarget, run_marked


def main(job: str, notes: str) -> int:
    """Runs the frames; errors become one sentence and an exit code."""
    try:
        run_marked(ProfileTarget.from_json(job), Path(notes))
    except LabError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
