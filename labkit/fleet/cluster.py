"""Ray for as long as it is needed: started here, or a cluster that is already there.

    with cluster() as ray:                      # this machine alone
    with cluster("192.0.2.7:6379") as ray:      # a cluster that this machine belongs to

What is started here listens on this machine only, sends no statistics anywhere, holds a bounded
share of memory, and is gone when the block ends.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.errors import UnavailableError, UsageError, first_line
from labkit.core.machine import available_cores
from labkit.core.threads import PASSIVE_WAIT
from labkit.fleet.guards import defer_interrupt, environment

MEASURING = "measuring"
"""Name of the resource that a node has one of, so that it measures one thing at a time."""

_RESOURCES = f"""--resources='{{"{MEASURING}": 1}}'"""
HEAD_LINE = f"ray start --head {_RESOURCES}"
START_LINE = f"ray start --address=HEAD:6379 {_RESOURCES}"
JOIN_LINES = f"a cluster begins with: {HEAD_LINE} and each further machine joins with: {START_LINE}"
HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
FOLDER_PREFIX = "labkit-ray-"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "2",  # Ray's own default is to go on for ever
    "RAY_gcs_rpc_server_connect_timeout_s": "10",
    # What Ray has to say of actors and workers would land among a table's lines, or in --json; what
    # concerns a fleet, a sweep or a batch is told by them, and Ray keeps its own logs in its folder.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
LOCAL_SETTINGS = {
    **SETTINGS,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: one machine only, so loopback only
    **PASSIVE_WAIT,  # from a worker's start: what an actor is sent loads torch before its own first line
    "RAY_worker_niceness": "0",  # Ray's own 15 would let everything else on the machine go first
    # Nobody reads what workers print, and one machine need not hear of itself ten times a second:
    # together with the log monitor's search for files these cost a core 1.5% of its time.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, or what stands for one.

    Attributes:
        id: Ray's own, hexadecimal.
        host: its name or address, for people.
        cpus, gpus, measuring: how much of each it offers in total.
    """

    id: str
    host: str
    cpus: float
    gpus: float
    measuring: float


@contextmanager
def cluster(
    address: str | None = None,
    *,
    dashboard: bool = False,
    object_store_bytes: int = OBJECT_STORE_BYTES,
) -> Iterator[Any]:
    """Gives the `ray` module, connected; starts Ray on this machine unless there is an address.

    A connection that this process already has to the same cluster is used and left open.

    Args:
        address: HOST:PORT of a running cluster that this machine belongs to, or "auto" to find
            it; None starts Ray here.
        dashboard: also serve Ray's dashboard (on this machine only; local start only).
        object_store_bytes: bound of the shared memory of a local start.

    Raises:
        UnavailableError: Ray is not installed, does not start, or nothing answers at the address.
        UsageError: the address cannot be read.
    """
    if address is not None:
        _check_address(address)
    settings = SETTINGS if address is not None else LOCAL_SETTINGS
    with environment(settings):  # before the import, which reads some of it
        ray = _ray()
        if ray.is_initialized():
            if address not in (None, "auto", ray.get_runtime_context().gcs_address):
                raise UsageError(f"this process is connected to another Ray cluster than {address}")
            yield ray
            return
        if address is not None:
            _connect(ray, address)
            try:
                yield ray
            finally:
                ray.shutdown()
            return
        folder = _own_folder()
        try:
            _start(ray, folder, dashboard, object_store_bytes)
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def nodes() -> list[Node]:
    """The nodes that are alive, in a stable order."""
    found = []
    for one in _ray().nodes():
        if one["Alive"]:
            has = one["Resources"]
            found.append(
                Node(
                    one["NodeID"],
                    one["NodeManagerHostname"],
                    float(has.get("CPU", 0)),
                    float(has.get("GPU", 0)),
                    float(has.get(MEASURING, 0)),
                )
            )
    return sorted(found, key=lambda node: (node.host, node.id))


def measuring_nodes() -> list[Node]:
    """The nodes that may measure.

    Raises:
        UnavailableError: there is none; the message says how to start one.
    """
    found = [node for node in nodes() if node.measuring >= 1]
    if not found:
        raise UnavailableError(
            f"no node of this cluster has the resource {MEASURING!r}, of which each node that may measure "
            f"has 1; start such a node with: {START_LINE}"
        )
    return found


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(
            f"this needs Ray ({error}); install it with: pip install 'labkit[scale]'"
        ) from error
    return ray


def _start(ray: Any, folder: Path, dashboard: bool, object_store_bytes: int) -> None:
    _have_token()
    if dashboard:
        _check_dashboard()
    advice = "free some memory and disk, end programs that keep all cores busy, then try again"
    with _explained("Ray does not start on this machine", advice), defer_interrupt():
        ray.init(
            "local",
            num_cpus=available_cores(),
            resources={MEASURING: 1},
            object_store_memory=object_store_bytes,
            include_dashboard=dashboard,
            dashboard_host=HOST,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address=HOST,
            _temp_dir=str(folder),
        )


def _connect(ray: Any, address: str) -> None:
    with _explained(f"no Ray cluster can be reached at {address}", JOIN_LINES):
        if address != "auto":
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        _answers(address)
        with defer_interrupt():
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False)


def _answers(address: str) -> None:
    """Asks in a process of its own, since Ray itself waits for minutes where something else answers."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"what is there does not answer as Ray within {ANSWER_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise ConnectionError((done.stderr.strip().splitlines() or ["it is not healthy"])[-1])


def _check_dashboard() -> None:
    try:
        import ray.dashboard.optional_deps  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"Ray's dashboard needs more packages ({error}); pip install 'ray[default]', or go without it"
        ) from error


def _have_token() -> None:
    """A secret for this process and its Ray, unless the user has one; else Ray writes one to the home.

    It stays for as long as the process lives, since Ray reads it once.
    """
    known = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not known and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """Any of the many ways in which Ray fails to come up, in one sentence."""
    try:
        yield
    except Exception as error:
        raise UnavailableError(f"{what} ({first_line(error).rstrip('.')}); {advice}") from error


def _check_address(address: str) -> None:
    if "://" in address:
        raise UsageError(
            f"{address} is an address of Ray's client; run this on a machine of the cluster, with "
            "--address HOST:PORT or --address auto"
        )
    host, colon, port = address.rpartition(":")
    if address != "auto" and not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            f"an address of a cluster is HOST:PORT, such as 192.0.2.7:6379, or auto; not {address!r}"
        )


def _own_folder() -> Path:
    """A new folder for Ray's sockets and logs; those that a killed process left are removed.

    Its name is short, since the path of a socket has at most 107 characters.
    """
    root = Path(tempfile.gettempdir())
    if len(str(root)) > 24 and Path("/tmp").is_dir():
        root = Path("/tmp")
    for left in root.glob(f"{FOLDER_PREFIX}*"):
        owner = left.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=root))


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
