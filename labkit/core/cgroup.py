"""Control groups of this process: limits of cores and memory, what is left, and how often it was stopped.

Groups are nested, and a container's or a service's limit may stand at any level: the smallest counts.
Versions 1 and 2 are read, and both at once where a system mounts both. Without control groups (Windows,
macOS) there is no limit.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 2**60
"""Version 1 writes "no limit" as the largest multiple of a page that fits 63 bits."""


Throttling = dict[Path, tuple[int, int]]
"""By group: periods in which it was at work, and those of them in which its CPU quota was used up."""


def quota_cores(root: Path = ROOT) -> float | None:
    """CPU cores that the control groups allow; None without a limit."""
    limits = []
    for group in _groups("cpu", root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
            if quota != "max":
                limits.append(int(quota) / int(period))
        quota_us, period_us = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:
            limits.append(quota_us / period_us)
    return min(limits, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the control groups allow; None without a limit."""
    limits = (_memory_limit(group) for group in _groups("memory", root))
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that may still be used before a control group's limit is reached; None without a limit.

    Cached files that the system would drop first do not count as used.
    """
    left = []
    for group in _groups("memory", root):
        limit = _memory_limit(group)
        used = _number(group / "memory.current")
        used = _number(group / "memory.usage_in_bytes") if used is None else used
        if limit is not None and used is not None:
            stat = _table(group / "memory.stat")
            cached = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            left.append(max(0, limit - max(0, used - cached)))
    return min(left, default=None)


def throttling(root: Path = ROOT) -> Throttling:
    """Counts of the periods so far in which a quota stopped this process's groups."""
    counts = {group: _table(group / "cpu.stat") for group in _groups("cpu", root)}
    return {
        group: (each["nr_periods"], each["nr_throttled"])
        for group, each in counts.items()
        if {"nr_periods", "nr_throttled"} <= each.keys()
    }


def stopped_share(before: Throttling, after: Throttling) -> float:
    """Share, from 0 to 1, of the periods between two counts in which the worst group's quota was used up."""
    shares = [0.0]
    for group, (periods, stopped) in after.items():
        periods_before, stopped_before = before.get(group, (0, 0))
        if periods > periods_before:
            shares.append(min(1.0, (stopped - stopped_before) / (periods - periods_before)))
    return max(shares)


def _memory_limit(group: Path) -> int | None:
    """The smallest limit of one group; above `memory.high` its processes are held up, not killed."""
    files = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [limit for file in files if (limit := _number(group / file)) is not None]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


@lru_cache(maxsize=8)
def _groups(controller: str, root: Path) -> tuple[Path, ...]:
    """Folders of this process's groups with a controller ("cpu"), from its own up to the outermost seen."""
    folders: list[Path] = []
    for mounted, shown, at in _mounts(controller, root):
        path = _own_path(controller if mounted == "cgroup" else "", root)
        inner = path[len(shown) :] if path.startswith(shown.rstrip("/") + "/") and ".." not in path else ""
        top = root / at.lstrip("/")
        group = top / inner.strip("/")
        folders += [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return tuple(dict.fromkeys(folders))


def _mounts(controller: str, root: Path) -> list[tuple[str, str, str]]:
    """(file system, the group that it shows, folder) of each mount that may hold a controller."""
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            mounts.append((kind[0], fields[3], fields[4]))
    return mounts


def _own_path(controller: str, root: Path) -> str:
    """This process's group in the hierarchy of a controller; that of version 2 has no name."""
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "")
        if controller in names.split(","):
            return path
    return ""


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return None


def _table(path: Path) -> dict[str, int]:
    """A file of lines "name number"."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
