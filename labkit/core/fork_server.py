"""Child processes that find the heavy libraries already loaded.

Importing torch, torchvision and transformers takes 5 to 10 s of CPU, and a comparison of five pairs of
fresh processes would do it ten times. On Linux one process, the *server*, imports them once and
forks: each child is a new process, with its own memory, threads and first frame, some milliseconds later.
Elsewhere, and for whoever uses a GPU (its driver survives no fork), a child is started from nothing.

A server ends with its owner, with `IDLE_S` without work, and its children end with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from labkit.core.child import child_command, end_with
from labkit.core.errors import WorkerError

PRELOADED = ("cv2", "torch", "torchvision", "transformers.models.detr.modeling_detr", "labkit.bench.session")
START_TIMEOUT_S = 120.0  # importing them on a busy machine
REPLY_TIMEOUT_S = 30.0  # a fork, or a look at a child
IDLE_S = 120.0
POLL_S = 0.02
OF_THE_CALL = ("LABKIT_", "PYTEST_CURRENT_TEST")
"""Beginnings of variables that no library reads when it is loaded: they may differ from child to child."""


class ForkedChild:
    """A child of the server, with the part of `subprocess.Popen` that its owner needs."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server  # which ends when nobody holds it
        self._asking = threading.Lock()
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status as `Popen.poll` gives it; None while the child runs."""
        with self._asking:  # a child's end is told once
            if self.returncode is None:
                self.returncode = self._server.status(self.pid)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the child's end.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        until_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until_s is not None and time.monotonic() > until_s:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def kill(self) -> None:
        """Ends the child by force."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The owner's end of a server.

    Args:
        environment: its variables.
        preloaded: the modules that its children find loaded.
    """

    def __init__(self, environment: Mapping[str, str], preloaded: Sequence[str] = PRELOADED) -> None:
        self.environment = dict(environment)
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                child_command("labkit.core.fork_server", str(theirs.fileno()), *preloaded),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=[theirs.fileno()],
            )
        _servers.add(self)
        self._channel.settimeout(START_TIMEOUT_S)
        self._receive()
        self._channel.settimeout(REPLY_TIMEOUT_S)

    def __del__(self) -> None:
        self._channel.close()  # at which the server ends

    @property
    def pid(self) -> int:
        """Of the process that forks."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while it takes orders."""
        return self._process.poll() is None

    def fork(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: BinaryIO,
        handed: int,
    ) -> ForkedChild:
        """Starts a child that calls `module.main(arguments, handed)`.

        Args:
            module: imported in the child.
            arguments: for its `main`.
            environment: the child's variables; only those of the call may differ from the server's.
            output: the file that takes what the child prints.
            handed: a file descriptor that the child gets, under a number of its own.

        Raises:
            WorkerError: the server died, did not answer, or could not fork.
        """
        order = {
            "module": module,
            "arguments": list(arguments),
            "environment": {name: value for name, value in environment.items() if _is_of_the_call(name)},
            "folder": _folder(),
        }
        answer = self._ask(order, [output.fileno(), handed])
        if not isinstance(answer, int):
            raise WorkerError(f"no process can be started ({answer})")
        return ForkedChild(self, answer)

    def status(self, pid: int) -> int | None:
        """Exit status of a child as `Popen.returncode` has it, None while it runs."""
        if not self.alive:  # its children ended with it
            return -signal.SIGKILL
        try:
            answer = self._ask({"status": pid})
        except WorkerError:
            return -signal.SIGKILL
        return None if answer is None else int(answer)

    def _ask(self, order: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self._lock:
            try:
                socket.send_fds(self._channel, [json.dumps(order).encode()], list(descriptors))
            except OSError as error:  # it has gone, or the order is too long
                raise WorkerError(
                    f"the process that starts the measuring ones takes no order ({error})"
                ) from error
            return self._receive()

    def _receive(self) -> Any:
        try:
            return json.loads(self._channel.recv(4096))
        except (OSError, ValueError) as error:  # it died, hangs, or something else writes there
            self._process.kill()
            raise WorkerError(
                f"the process that starts the measuring ones does not answer ({error})"
            ) from error


_current: ForkServer | None = None
_servers: weakref.WeakSet[ForkServer] = weakref.WeakSet()
_choosing = threading.Lock()


def fork_server(environment: Mapping[str, str]) -> ForkServer | None:
    """The server for children with these variables; None where a child has to be started from nothing.

    It is kept for the next call. Another environment, whose variables libraries may have read when
    they were loaded, gets a server of its own.
    """
    global _current
    if sys.platform != "linux":
        return None
    wanted = {name: value for name, value in environment.items() if not _is_of_the_call(name)}
    with _choosing:
        if _current is None or not _current.alive or _current.environment != wanted:
            try:
                _current = ForkServer(wanted)
            except (WorkerError, OSError):  # a child that starts by itself tells what is wrong
                _current = None
        return _current


def server_pids() -> tuple[int, ...]:
    """The servers of this process, to which the system adds the CPU time of children that have ended."""
    return tuple(server.pid for server in _servers)


def _is_of_the_call(name: str) -> bool:
    return name.startswith(OF_THE_CALL)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def _serve(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Answers orders; returns in a child, with its order, and at the end, with None."""
    running: set[int] = set()
    answer: int | str | None
    while True:
        channel.settimeout(IDLE_S)
        try:
            request, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        except TimeoutError:
            if running:
                continue
            return None
        if not request:
            return None
        order = json.loads(request)
        if "status" in order:
            pid, status = os.waitpid(order["status"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            with warnings.catch_warnings(action="ignore"):  # of fork and threads: there is only one
                try:
                    answer = os.fork()
                except OSError as error:  # the system's limit, which the owner tells
                    answer = str(error)
                else:
                    if answer == 0:
                        return order, descriptors
                    running.add(answer)
            for each in descriptors:
                os.close(each)
        channel.send(json.dumps(answer).encode())


def _become(order: Mapping[str, Any], descriptors: Sequence[int], server: int) -> None:
    output, handed = descriptors
    for stream in (1, 2):  # first, so that a fault is told
        os.dup2(output, stream)
    os.close(output)
    end_with(server, by_system=True)
    for name in filter(_is_of_the_call, list(os.environ)):
        del os.environ[name]
    os.environ.update(order["environment"])
    with suppress(OSError):
        os.chdir(order["folder"])
    sys.path[0] = order["folder"]
    importlib.import_module(order["module"]).main(order["arguments"], handed)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    listening = socket.socket(fileno=int(sys.argv[1]))
    listening.set_inheritable(False)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children share these pages as long as nothing is written to them
    own_pid, begun = os.getpid(), None
    with suppress(OSError):  # the owner has gone
        listening.send(b"0")
        begun = _serve(listening)
    listening.close()
    if begun is not None:
        _become(*begun, own_pid)
