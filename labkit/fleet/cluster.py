"""Connection to Ray: started on this machine, or a running cluster.

    with cluster() as ray:                      # this machine alone
    with cluster("192.0.2.7:6379") as ray:      # a cluster that this machine belongs to

A Ray started here listens on this machine only, sends no usage statistics, has bounded shared memory,
and is shut down at the end of the block.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.child import child_command, environment
from labkit.core.errors import LabError, UnavailableError, UsageError, first_line
from labkit.core.scratch import scratch_folder
from labkit.core.threads import PASSIVE_WAIT, available_cores
from labkit.fleet.guards import ended_with_owner, init
from labkit.sources.spec import redact

MEASURING = "measuring"
"""Resource of which a measuring node has one, so that it measures one thing at a time."""

_RESOURCES = f"""--resources='{{"{MEASURING}": 1}}'"""
HEAD_LINE = f"ray start --head {_RESOURCES}"
START_LINE = f"ray start --address=HEAD:6379 {_RESOURCES}"
JOIN_LINES = f"a cluster begins with: {HEAD_LINE} and each further machine joins with: {START_LINE}"
HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "2",  # Ray's default is to retry for ever
    "RAY_gcs_rpc_server_connect_timeout_s": "10",
    # Ray's messages on actors and workers would appear within tables and --json output; fleets, sweeps
    # and batches report what concerns them, and Ray keeps its own logs in its folder.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
LOCAL_SETTINGS = {
    **SETTINGS,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: one machine only, so loopback only
    **PASSIVE_WAIT,  # before an actor's first line, since unpickling its arguments imports torch
    "RAY_worker_niceness": "0",  # with Ray's 15, everything else on the machine would go first
    # Nobody reads what workers print, and one machine need not report to itself ten times a second:
    # with the log monitor's file search, both cost 1.5% of a core.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
}


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        id: Ray's, hexadecimal.
        host: name or address.
        cpus, gpus, measuring: total amount of each resource.
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
    """Connect to Ray, and yield the `ray` module; starts Ray on this machine unless there is an address.

    A connection of this process to the same cluster is used and left open.

    Args:
        address: HOST:PORT of a running cluster that this machine belongs to, or "auto" to find
            it; None starts Ray on this machine.
        dashboard: serve Ray's dashboard, on this machine only; local start only.
        object_store_bytes: size of the shared memory; local start only.

    Raises:
        UnavailableError: Ray is not installed, does not start, or nothing answers at the address.
        UsageError: the address is malformed, or this process is connected to another cluster.
    """
    if address is not None:
        _check_address(address)
    settings = SETTINGS if address is not None else LOCAL_SETTINGS
    with environment(settings):  # before the import, which reads some of them
        ray = _import_ray()
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
        with scratch_folder("ray", _root()) as folder, ended_with_owner(folder, ray.shutdown):
            _start(ray, folder, dashboard, object_store_bytes)
            yield ray


def nodes() -> list[Node]:
    """The nodes that are alive, in a stable order."""
    found = []
    for node in _import_ray().nodes():
        if node["Alive"]:
            amounts = (float(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", MEASURING))
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], *amounts))
    return sorted(found, key=lambda node: (node.host, node.id))


def measuring_nodes() -> list[Node]:
    """The nodes that may measure.

    Raises:
        UnavailableError: there is none; the message says how to start one.
    """
    found = [node for node in nodes() if node.measuring >= 1]
    if not found:
        raise UnavailableError(
            f"no node of this cluster may measure, since none has the resource {MEASURING!r}; start one "
            f"with: {START_LINE}"
        )
    return found


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(
            f"Ray is needed ({error}); install it with: pip install 'labkit[scale]'"
        ) from error
    # Ray notes the command line that uses it, where credentials may be, and names that are no UTF-8.
    ray._private.utils.get_entrypoint_name = lambda: "labkit"
    return ray


@contextmanager
def ray_errors(problem: str) -> Iterator[None]:
    """Raise a `LabError` from an actor or task again, and any other error of it or of Ray as one."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LabError):
            raise error.cause from None
        raise LabError(f"{problem}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise LabError(f"{problem}: {first_line(error)}") from error


def _start(ray: Any, folder: Path, dashboard: bool, object_store_bytes: int) -> None:
    _set_token()
    if dashboard:
        _check_dashboard()
    advice = "free some memory and disk, end programs that keep all cores busy, then try again"
    with _unavailable_if_failed("cannot start Ray on this machine", advice):
        init(
            ray,
            "local",
            num_cpus=available_cores(),
            resources={MEASURING: 1},
            object_store_memory=object_store_bytes,
            include_dashboard=dashboard,
            dashboard_host=HOST,
            _node_ip_address=HOST,
            _temp_dir=str(folder / "r"),  # which Ray opens to everybody; what it lies in stays private
        )


def _connect(ray: Any, address: str) -> None:
    with _unavailable_if_failed(f"no Ray cluster can be reached at {address}", JOIN_LINES):
        if address != "auto":
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        _check_health(address)
        init(ray, address)


def _check_health(address: str) -> None:
    """Check in another process that Ray answers, since `ray.init` waits minutes if something else does."""
    command = child_command("ray.scripts.scripts", "health-check", "--address", address)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"it does not answer as Ray within {ANSWER_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise ConnectionError((done.stderr.strip().splitlines() or ["it is not healthy"])[-1])


def _check_dashboard() -> None:
    try:
        import ray.dashboard.optional_deps  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"Ray's dashboard needs more packages ({error}); pip install 'ray[default]', or leave it out"
        ) from error


def _set_token() -> None:
    """Set a secret for this process and its Ray, unless the user has one; else Ray writes one to the home.

    It is never unset, since Ray reads it once per process.
    """
    known = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not known and not os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _unavailable_if_failed(problem: str, advice: str) -> Iterator[None]:
    """Turn any exception of a failing Ray into an `UnavailableError` of one sentence."""
    try:
        yield
    except Exception as error:
        raise UnavailableError(f"{problem} ({first_line(error).rstrip('.')}); {advice}") from error


def _check_address(address: str) -> None:
    if "://" in address:
        raise UsageError(
            "--address names a Ray cluster, without ray://: run labkit on a machine of it, with "
            "--address HOST:PORT or --address auto; a camera's address is given with --source"
        )
    host, colon, port = address.rpartition(":")
    named = re.fullmatch(r"[\w.:%\[\]-]+", host)  # with no user and password, as cameras have
    shown = redact(address)
    if address != "auto" and not (named and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"--address must be HOST:PORT, such as 192.0.2.7:6379, or auto; not {shown!r}")


def _root() -> Path:
    """A folder with a short path: that of one of Ray's sockets has at most 107 characters."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > 11 and Path("/tmp").is_dir():
        root = Path("/tmp")
    return root
