"""A rung in a process of its own.

Engines disturb one another inside one process: thread pools fight and memory is shared. So
each rung is measured in a fresh child, which does what the parent asks, one request at a
time, over its standard input and output (pickled, since both ends are this program). The
child ends when the parent does, because its input then ends.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from labkit.bench.agreement import Answers
from labkit.bench.plan import Plan
from labkit.bench.session import Ready, Session
from labkit.bench.timing import Timed
from labkit.core.errors import LabError, WorkerError
from labkit.core.threads import PASSIVE_WAIT
from labkit.core.types import Frame, Rung, Workload
from labkit.models.weights import Weights

START_TIMEOUT_S = 900.0  # converting and quantising a network the first time takes minutes
REPLY_TIMEOUT_S = 600.0

Report = Callable[[str], None]


class Worker:
    """The parent's end: a context manager whose methods mirror `Session`."""

    def __init__(
        self,
        rung: Rung,
        workload: Workload,
        frames: Sequence[Frame],
        weights: Mapping[str, Weights] | None = None,
        *,
        report: Report = lambda line: None,
    ) -> None:
        self.rung = rung
        self._report = report
        request = _order(rung, workload, frames, weights)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "labkit.bench.worker", str(time.time())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **PASSIVE_WAIT},
        )
        self._replies: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._errors: list[bytes] = []
        threading.Thread(target=self._read_replies, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()
        try:
            self._send_bytes(request)
            self.ready: Ready = self._reply("ready", START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child is there; it ends after an error."""
        return self._process.poll() is None

    def become(
        self,
        rung: Rung,
        workload: Workload,
        frames: Sequence[Frame],
        weights: Mapping[str, Weights] | None = None,
    ) -> None:
        """Puts another rung in this one's place: for its answers, never for its speed.

        The process has its libraries loaded and its thread pools set up by the rungs before, so
        that start-up and timings would not be this rung's own.
        """
        request = _order(rung, workload, frames, weights)
        self.rung = rung
        self._send_bytes(request)
        self.ready = self._reply("ready", START_TIMEOUT_S)

    def answers(self, frames: Sequence[Frame]) -> Answers:
        """See `Session.answers`."""
        return self._ask("answers", list(frames))

    def run(self, plan: Plan, progress: Callable[[float], None] = lambda share: None) -> Timed:
        """See `Session.run`."""
        return self._ask("run", plan, progress=progress)

    def turn(self, n_frames: int) -> float:
        """See `Session.turn`."""
        return self._ask("turn", n_frames)

    def peak_bytes(self) -> int:
        """See `Session.peak_bytes`."""
        return self._ask("peak_bytes")

    def gpu_peak_bytes(self) -> int | None:
        """See `Session.gpu_peak_bytes`."""
        return self._ask("gpu_peak_bytes")

    def close(self) -> None:
        """Ends the child; at most a second, then by force."""
        if self._process.poll() is None:
            try:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait(1.0)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()

    def _ask(self, what: str, *arguments: Any, progress: Callable[[float], None] | None = None) -> Any:
        self._send_bytes(pickle.dumps((what, arguments)))
        return self._reply(what, REPLY_TIMEOUT_S, progress)

    def _send_bytes(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(data).to_bytes(8, "big") + data)
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def _reply(self, wanted: str, timeout_s: float, progress: Callable[[float], None] | None = None) -> Any:
        while True:
            try:
                kind, value = self._replies.get(timeout=timeout_s)
            except queue.Empty:
                self._process.kill()
                raise WorkerError(
                    f"{self.rung.name} said nothing for {timeout_s:.0f} s and was ended"
                ) from None
            if kind == wanted:
                return value
            if kind == "report":
                self._report(value)
            elif kind == "progress" and progress is not None:
                progress(value)
            elif kind == "error":
                self.close()
                raise value
            elif kind == "end":
                raise self._death()

    def _death(self) -> WorkerError:
        code = self._process.wait()
        cause = f"exit code {code}"
        if code < 0:
            cause = signal.Signals(-code).name
            if -code == signal.SIGKILL:
                cause += ", as when memory runs out"
        last = b"".join(self._errors).decode(errors="replace").strip().splitlines()[-1:]
        detail = f": {last[0]}" if last else ""
        return WorkerError(f"the process measuring {self.rung.name} died ({cause}){detail}")

    def _read_replies(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while (message := _receive(stream)) is not None:
            self._replies.put(message)
        self._replies.put(("end", None))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)
            del self._errors[:-50]


def _order(
    rung: Rung, workload: Workload, frames: Sequence[Frame], weights: Mapping[str, Weights] | None
) -> bytes:
    """What makes a child prepare a rung."""
    try:
        return pickle.dumps(("ready", (rung, workload, list(frames), weights)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise WorkerError(
            f"rung {rung.name} cannot be sent to a process of its own ({error}); define its schedule "
            "as a function of a module, or measure it in this process with labkit.bench.session.Session"
        ) from error


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size)
    return pickle.loads(data) if len(data) == size else None


def _serve(started_s: float) -> None:
    """The child's end: prepares the rung, then answers requests until its input ends."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not fall among the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def send(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        stdout.write(len(data).to_bytes(8, "big") + data)
        stdout.flush()

    def prepared(*order: Any, started_s: float | None) -> Session:
        session = Session(*order, report=lambda line: send("report", line), started_s=started_s)
        send("ready", session.ready)
        return session

    def progress(share: float) -> None:
        if share - told[0] >= 0.02 or share >= 1 > told[0]:  # a message per frame would cost the pipeline
            told[0] = share
            send("progress", share)

    session: Session | None = None
    told = [0.0]
    try:
        while (message := _receive(stdin)) is not None:
            what, arguments = message
            if what == "ready":
                again, session = session is not None, None  # the networks before make room first
                session = prepared(*arguments, started_s=None if again else started_s)
                continue
            if what == "run":
                told[0] = 0.0
                arguments = (*arguments, progress)
            send(what, getattr(session, what)(*arguments))
    except LabError as error:
        send("error", error)
    except Exception as error:
        traceback.print_exc()
        send("error", WorkerError(f"{type(error).__name__} while measuring: {error}"))


if __name__ == "__main__":
    _serve(time.perf_counter() - (time.time() - float(sys.argv[1])))
