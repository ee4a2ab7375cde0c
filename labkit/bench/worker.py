"""A rung in a process of its own.

Engines disturb one another inside one process: thread pools fight and memory is shared. So
each rung is measured in a fresh child, which answers one request at a time over a
`multiprocessing` pipe of which nothing else knows; what it prints goes to a file that is quoted
when it dies. Every wait has a deadline, at which the child is killed and the pipe shut down, so that
neither an order nor half an answer waits for ever. The child ends with its parent (see
`labkit.core.child`; `multiprocessing` itself would import the caller's script again in it).
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import Pipe, connection
from typing import Any

from labkit.bench.agreement import Answers
from labkit.bench.headroom import Footprint
from labkit.bench.plan import Plan
from labkit.bench.session import Ready, Session
from labkit.bench.timing import Timing
from labkit.core.child import child_command
from labkit.core.errors import LabError, WorkerError
from labkit.core.fork_server import ForkedChild, fork_server
from labkit.core.threads import end_spinning_threads, worker_environment
from labkit.core.types import Frame, Rung, Workload
from labkit.models.weights import Weights

CONNECT_TIMEOUT_S = 120.0  # importing the libraries on a busy machine
READY_TIMEOUT_S = 900.0  # converting and quantising a network the first time takes minutes
REPLY_TIMEOUT_S = 600.0
EXIT_TIMEOUT_S = 1.0
POLL_S = 0.5
QUOTED_LINES = 3
WARNING = re.compile(r"warn(ing)?\b", re.IGNORECASE)
"""Of lines that tell of something else than the end of a process."""

RESTLESS, RESTLESS_S = 0.05, 0.05
"""Share of a core, and time in s, from which on it is told that a process works while it waits."""

START_ADVICE = "end other programs, or raise the limits that ulimit -a shows, and try again"

Report = Callable[[str], None]


class Worker:
    """The parent's end: a context manager whose methods mirror `Session`.

    Attributes:
        restless: most of a core that the child used while it waited for an order; 0 if that is nothing
            to speak of.
    """

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
        self.restless = 0.0
        self._report = report
        self._timed_out = False
        _check_picklable(rung)
        try:
            self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
            self._connection, theirs = Pipe()
            with theirs:
                self._process = _start(rung, theirs, self._output)
        except OSError as error:  # of processes, memory, open files; no folder for temporary ones
            raise WorkerError(
                f"no process can be started for {rung.name} ({error}); {START_ADVICE}"
            ) from error
        try:
            self._reply("connected", CONNECT_TIMEOUT_S)
            self.ready: Ready = self._prepare(rung, workload, frames, weights)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # an interruption, which waits for no child to finish its work
            self._process.kill()
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while the child runs; it ends after an error."""
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
        _check_picklable(rung)
        self.rung = rung
        self.ready = self._prepare(rung, workload, frames, weights)

    def answers(self, frames: Sequence[Frame]) -> Answers:
        """See `Session.answers`."""
        return self._ask("answers", list(frames))

    def run(self, plan: Plan, progress: Callable[[float], None] = lambda share: None) -> Timing:
        """See `Session.run`."""
        return self._ask("run", plan, progress=progress)

    def time_frames(self, n_frames: int) -> float:
        """See `Session.time_frames`."""
        return self._ask("time_frames", n_frames)

    def footprint(self) -> Footprint:
        """See `Session.footprint`."""
        return self._ask("footprint")

    def close(self) -> None:
        """Ends the child; at most a second, then by force."""
        self._connection.close()
        self._wait_or_kill()
        self._output.close()

    def _prepare(self, rung: Rung, workload: Workload, frames: Sequence[Frame], weights: Any) -> Ready:
        return self._ask("ready", rung, workload, list(frames), weights, timeout_s=READY_TIMEOUT_S)

    def _ask(
        self,
        what: str,
        *arguments: Any,
        timeout_s: float = REPLY_TIMEOUT_S,
        progress: Callable[[float], None] | None = None,
    ) -> Any:
        try:
            with self._ended_after(timeout_s):
                self._connection.send((what, arguments))
        except OSError as error:
            raise self._death(self._overdue(f"did not take its order within {timeout_s:g} s")) from error
        return self._reply(what, timeout_s, progress)

    def _reply(self, wanted: str, timeout_s: float, progress: Callable[[float], None] | None = None) -> Any:
        while True:
            kind, value = self._receive(timeout_s)
            if kind == wanted:
                return value
            if kind == "report":
                self._report(value)
            elif kind == "restless":
                self.restless = max(self.restless, value)
            elif kind == "progress" and progress is not None:
                progress(value)
            elif kind == "error":
                self.close()
                raise value

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        """The child's next message.

        Raises:
            WorkerError: the child died, closed its connection, or sent nothing for `timeout_s`.
        """
        until_s = time.monotonic() + timeout_s
        try:
            while not self._connection.poll(min(POLL_S, timeout_s)):
                if not self.alive and not self._connection.poll():  # a grandchild may hold the pipe open
                    raise EOFError
                if time.monotonic() > until_s:
                    raise self._death(f"sent nothing for {timeout_s:g} s and was ended")
            with self._ended_after(timeout_s):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death(self._overdue(f"sent half an answer within {timeout_s:g} s")) from error

    @contextmanager
    def _ended_after(self, timeout_s: float) -> Iterator[None]:
        """Kills the child, and shuts the pipe down, if the block takes longer."""
        timer = threading.Timer(timeout_s, self._end_overdue)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:
            raise self._death(f"cannot be waited for ({error}; {START_ADVICE})") from error
        try:
            yield
        finally:
            timer.cancel()

    def _end_overdue(self) -> None:
        self._timed_out = True
        self._process.kill()
        with (
            suppress(OSError, AttributeError),  # Windows has other pipes
            socket.socket(fileno=os.dup(self._connection.fileno())) as pipe,
        ):
            pipe.shutdown(socket.SHUT_RDWR)  # a grandchild may hold the other end open

    def _overdue(self, reason: str) -> str:
        return f"{reason} and was ended" if self._timed_out else ""

    def _death(self, reason: str = "") -> WorkerError:
        """Ends the child; the error says why, and what the child printed last."""
        if reason:
            self._process.kill()
        killed = self._wait_or_kill()
        code = self._process.wait()
        cause = f"exit code {code}"
        if code < 0:
            cause = signal.Signals(-code).name
            if -code == signal.SIGKILL:
                cause += ", as when memory runs out"
        if killed:
            reason = reason or "closed its connection and was ended"
        # Who is killed has no last words; what was printed before is about something else.
        words = ""
        if not self._output.closed and (reason or not cause.startswith("SIGKILL")):
            self._output.seek(0)
            words = last_words(self._output.read().decode(errors="replace"))
        said = f"; it printed: {words}" if words else ""
        return WorkerError(f"the process measuring {self.rung.name} {reason or f'died ({cause})'}{said}")

    def _wait_or_kill(self) -> bool:
        """Waits for the child's end, and kills it if it goes on; True if that was needed."""
        try:
            self._process.wait(EXIT_TIMEOUT_S)
            return False
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return True


def restless(workers: Iterable[Worker]) -> tuple[str, ...]:
    """A sentence for each rung whose process worked while it waited, and so took time from the others."""
    most: dict[str, float] = {}
    for worker in workers:
        most[worker.rung.name] = max(worker.restless, most.get(worker.rung.name, 0.0))
    return tuple(
        f"{name} used {100 * share:.0f}% of a core while others had their turn"
        for name, share in most.items()
        if share
    )


def last_words(printed: str) -> str:
    """The lines of a process's output that explain its end.

    That is the fault that Python's fault handler names, with its place; else the exception after the
    last traceback; else the last lines that are no warning.
    """
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    for place in range(len(lines) - 1, -1, -1):
        after = lines[place + 1 :]
        if lines[place].startswith("Fatal Python error"):
            current = [k for k, line in enumerate(after) if line.startswith("Current thread")][:1]
            places = after[current[0] + 1 :] if current else after
            where = next((line.strip() for line in places if line.lstrip().startswith("File ")), "")
            return " / ".join(filter(None, [lines[place], where]))
        if lines[place].startswith("Traceback (most recent call last)"):
            return next((line for line in after if not line.startswith(" ")), "")
    spoken = [
        line.strip()
        for line, before in zip(lines, ["", *lines], strict=False)
        if not (WARNING.search(line) or (line.startswith(" ") and WARNING.search(before)))
    ]
    return " / ".join(spoken[-QUOTED_LINES:])


def _start(rung: Rung, end: Any, output: Any) -> subprocess.Popen[bytes] | ForkedChild:
    """A child that serves requests at this end of a pipe, and prints to a file."""
    spin = "spin" in rung.prepare.options  # which libraries read as they are loaded
    environment = {**os.environ, **worker_environment(spin)}
    server = None if rung.prepare.device == "cuda" or spin else fork_server(environment)
    if server is not None:
        with suppress(WorkerError):  # it has just ended; a process from nothing takes longer
            return server.fork("labkit.bench.worker", [str(time.time())], environment, output, end.fileno())
    return subprocess.Popen(
        child_command("labkit.bench.worker", str(time.time()), str(end.fileno())),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        **_inheriting(end),
    )


def _inheriting(end: Any) -> dict[str, Any]:
    """Options of `Popen` by which a child inherits this end of a pipe."""
    if sys.platform == "win32":
        os.set_handle_inheritable(end.fileno(), True)
        return {"close_fds": False}
    return {"pass_fds": [end.fileno()]}


def _check_picklable(rung: Rung) -> None:
    try:
        pickle.dumps(rung)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise WorkerError(
            f"rung {rung.name} cannot be sent to a process of its own ({error}); define its schedule "
            "as a function of a module, or measure it in this process with labkit.bench.session.Session"
        ) from error


def _serve(parent: Any, started_s: float) -> None:
    """The child's end: prepares the rung, then answers requests until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.enable()

    session: Session | None = None
    spins = False
    begun_s: float | None = started_s

    def send(kind: str, value: Any = None) -> None:
        parent.send((kind, value))

    try:
        send("connected")
        while True:
            if spins:
                end_spinning_threads()
            begun_waiting_s, before_s = time.perf_counter(), time.process_time()
            try:
                parent.poll(None)
                used_s = time.process_time() - before_s
                share = used_s / (time.perf_counter() - begun_waiting_s)
                what, arguments = parent.recv()
            except (EOFError, BrokenPipeError):  # the parent has closed the pipe
                return
            if share > RESTLESS and used_s > RESTLESS_S:
                send("restless", share)
            if what == "ready":
                session = None  # the networks before make room first
                spins = "spin" in arguments[0].prepare.options
                session = Session(*arguments, report=lambda line: send("report", line), started_s=begun_s)
                begun_s = None
                send("ready", session.ready)
                continue
            if what == "run":
                arguments = (*arguments, partial(send, "progress"))
            send(what, getattr(session, what)(*arguments))
    except LabError as error:
        send("error", error)
    except Exception as error:
        traceback.print_exc()
        send("error", WorkerError(f"{type(error).__name__} while measuring: {error}"))


def main(arguments: Sequence[str], descriptor: int) -> None:
    """Serves a parent.

    Args:
        arguments: when it asked for this process, in s since 1970.
        descriptor: of the pipe.
    """
    if sys.platform != "win32":
        os.set_inheritable(descriptor, False)
    end = getattr(connection, "PipeConnection", connection.Connection)  # the former on Windows
    _serve(end(descriptor), time.perf_counter() - (time.time() - float(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:2], int(sys.argv[2]))
