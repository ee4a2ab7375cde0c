"""Downloads in a process of their own, which is ended when they take too long.

A client in this process could not be stopped: one that waits for a hub which accepts and never
answers, or sends a byte now and then, would wait with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.core.child import child_command
from labkit.core.errors import WeightsError, first_line

START_S = 10.0
"""Time until the first bytes have to come."""
LEAST_BYTES_S = 500e3
"""Speed below which a download is given up, on average since START_S."""
IMPORT_S = 120.0
"""Time for the process itself to be ready."""
LOOK_EVERY_S = 0.1


def download(
    job: Mapping[str, Any], came: Callable[[], int], size: int, *, progress: bool, slow: bool = False
) -> None:
    """Runs a download to its end.

    Args:
        job: keyword arguments of `torch.hub.download_url_to_file` ("url", ...), or of the hub's
            `hf_hub_download` ("repo_id", ...) with "filenames".
        came: number of bytes on this machine's disk.
        size: bytes that there will be; with the least speed it gives the deadline of the whole.
        progress: show the client's progress bar.
        slow: a tenth of the least speed will do.

    Raises:
        WeightsError: it failed, or was given up; the message says after how long.
    """
    least = LEAST_BYTES_S / 10 if slow else LEAST_BYTES_S
    deadline_s = START_S + size / least
    before, lines = came(), []
    process = subprocess.Popen(
        child_command("labkit.models.download", json.dumps({**job, "progress": progress})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if progress else subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    try:
        assert process.stdout is not None
        threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
        launched_s, began_s = time.monotonic(), None
        while process.poll() is None:
            time.sleep(LOOK_EVERY_S)
            now_s = time.monotonic()
            if began_s is None:
                began_s = now_s if lines else None
                if now_s - launched_s > IMPORT_S:
                    raise WeightsError(f"the client that downloads did not start within {IMPORT_S:.0f} s")
                continue
            due = least * min(now_s - began_s - START_S, deadline_s)
            if due >= 0 and came() - before <= due:
                raise WeightsError(_too_slow(now_s - began_s, came() - before, size, least, deadline_s))
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise WeightsError(first_line(ValueError("".join(lines[1:]))) if lines[1:] else "the client died")


def _too_slow(spent_s: float, count: int, size: int, least: float, deadline_s: float) -> str:
    return (
        f"given up after {spent_s:.0f} s, in which {count / 1e6:.1f} of {size / 1e6:.0f} MB came "
        f"(the deadline is {START_S:.0f} s for the first byte, and {deadline_s:.0f} s in all, "
        f"at {least / 1e3:.0f} kB/s)"
    )


def folder_bytes(folder: Path, pattern: str) -> int:
    """Bytes of the files in a folder that match a pattern; links count nothing."""
    total = 0
    with suppress(OSError):
        for path in folder.glob(pattern):
            with suppress(OSError):
                total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return total


def _run(job: dict[str, Any]) -> None:
    progress = job.pop("progress")
    if "url" in job:
        import socket

        import torch

        print("ready", flush=True)
        socket.setdefaulttimeout(START_S)
        torch.hub.download_url_to_file(**job, progress=progress)
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    print("ready", flush=True)
    if not progress:
        disable_progress_bars()
    for name in job.pop("filenames"):
        hf_hub_download(**job, filename=name)


if __name__ == "__main__":
    try:
        _run(json.loads(sys.argv[1]))
    except Exception as error:  # the clients raise errors of several libraries
        print(first_line(error), flush=True)
        sys.exit(1)
