"""Writes runs into a store, one after the other, and says which were reported as saved."""

from __future__ import annotations

import sys
from dataclasses import replace

from records_made_up import made_up_run

from labkit.results.store import Store


def main(path: str, name: str, count: int) -> None:
    run = made_up_run(n=30)
    with Store(path) as store:
        for k in range(count):
            saved = store.add(replace(run, rung=f"{name}-{k}"))
            sys.stdout.write(f"{saved.rung}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
