"""A process of its own that times frames on request; its environment is set before torch loads.

Run as a script, it is that process: it reads how many frames to time, line by line, and
answers with their seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class Child:
    """The parent's end.

    Args:
        frames: pictures, worked on in turn.
        waiting: how idle threads of its OpenMP pool wait; None leaves that to the pool.

    Raises:
        WorkerError: the process died or answered nonsense.
    """

    def __init__(self, frames: Sequence[Any], waiting: Mapping[str, str] | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="labkit-exhibit-")
        path = Path(self._folder.name) / "frames.npy"
        np.save(path, np.stack([frame.image for frame in frames[:8]]))
        kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept | dict(waiting or {}),
        )  # fmt: skip

    def times(self, n: int) -> NDArray[np.float64]:
        """(n,) s per frame for the next `n` frames."""
        from labkit.core.errors import WorkerError

        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(n, file=self._process.stdin, flush=True)
            return np.array(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError) as error:
            code = self._process.poll()
            raise WorkerError(
                f"the exhibit's process failed ({error}; exit code {code}); run it again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes, and minds no unsent request to a dead process
        self._folder.cleanup()


def serve(path: str) -> None:
    """The child's end: OpenCV shrinks each frame, a small torch network looks at it."""
    import cv2
    import torch

    frames = np.load(path)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2, 1)
    ).eval()

    def work(image: NDArray[np.uint8]) -> None:
        small = cv2.resize(cv2.GaussianBlur(image, (9, 9), 0), (224, 224), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            net(torch.from_numpy(np.asarray(small)).permute(2, 0, 1)[None].float() / 255)

    done = 0
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.perf_counter()
            work(frames[done % len(frames)])
            times.append(time.perf_counter() - began)
            done += 1
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
