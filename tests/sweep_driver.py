"""The command line with a fake measurement: sweep_driver.py FAKE ARGUMENT..."""

from __future__ import annotations

import sys
from functools import partial

import measuring_fakes

import labkit.fleet.sweep.run_sweep
from labkit.cli.main import main

if __name__ == "__main__":
    fake = getattr(measuring_fakes, sys.argv[1])
    labkit.fleet.sweep.run_sweep.sweep = partial(labkit.fleet.sweep.run_sweep.sweep, measure=fake)
    sys.exit(main(sys.argv[2:]))
