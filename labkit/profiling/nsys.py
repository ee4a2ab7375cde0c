"""Nsight Systems' command line: where it is, what it can see, and how it is asked."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from labkit.core.child import end_marked, end_tree
from labkit.core.errors import SourceError, UnavailableError, UsageError, WeightsError
from labkit.core.requirements import installed_version
from labkit.profiling.capture import ANCHOR, ANCHOR_DOMAIN

TRACES = "cuda,nvtx" if sys.platform == "win32" else "cuda,nvtx,osrt"
"""Traced events: CUDA calls and GPU work (none without a GPU), ranges, waits in POSIX's system calls."""

_QUIET = ("--sample=none", "--cpuctxsw=none")  # sampling needs rights that few machines give
_USUAL_PLACES = ("/opt/nvidia/nsight-systems/*/bin/nsys", "/usr/local/cuda*/bin/nsys")
_LONGEST_S = 300
_NEVER_MET = "Local Endpoint is not available"  # nsys and its agent: before the watched program begins
_TRIES = 3  # on busy processors one start in 60 ends so
_END_S = 5.0
_MARK = "LABKIT_NSYS_RUN"
_SESSION = "NSYS_PROFILING_SESSION_ID"  # set by nsys for the programs that it watches

Version = tuple[int, ...]


@dataclass(frozen=True)
class Nsys:
    """A found nsys.

    Attributes:
        path: of the program.
        version: e.g. (2022, 4, 2, 1).
    """

    path: Path
    version: Version

    @property
    def name(self) -> str:
        """Name and version, for tables and pictures."""
        return f"nsys {'.'.join(map(str, self.version))}"

    @property
    def traces(self) -> tuple[str, ...]:
        """Options for what is traced; the kernels of CUDA graphs by themselves, not each graph as a whole."""
        return ("-t", TRACES, *(("--cuda-graph-trace=node",) if self.version >= (2022,) else ()))

    def profile(self, report: Path, command: list[str]) -> list[str]:
        """The command line that watches `command` while its capture range is open."""
        return [
            str(self.path), "profile", *self.traces, *_QUIET,
            "-c", "nvtx", "-p", f"{ANCHOR}@{ANCHOR_DOMAIN}", "--capture-range-end=stop",
            "--export=sqlite", "-f", "true", "-o", str(report), *command,
        ]  # fmt: skip

    def launch(self, session: str, command: list[str]) -> list[str]:
        """The command line that runs `command` ready to be watched, but not watched yet."""
        return [
            str(self.path), "launch", f"--session-new={session}", *self.traces, "--wait=primary", *command
        ]  # fmt: skip

    def start(self, session: str, report: Path) -> None:
        """Begins to watch the session."""
        self.run(["start", f"--session={session}", *_QUIET, "--export=sqlite", "-f", "true",
                  "-o", str(report)])  # fmt: skip

    def stop(self, session: str) -> None:
        """Ends watching; the report and its SQLite export are there afterwards."""
        self.run(["stop", f"--session={session}"])

    def sessions(self) -> list[str]:
        """Names of the sessions that are open."""
        lines = self.run(["sessions", "list"]).splitlines()[1:]
        return [line.split()[-1] for line in lines if line.strip()]

    def shut_down(self, session: str) -> None:
        """Ends a session whose program has gone; the program itself is left alone."""
        self.run(["shutdown", f"--session={session}", "--kill=none"])

    def run(self, arguments: list[str]) -> str:
        """Runs nsys and returns what it said.

        Raises:
            UnavailableError: it failed, with its own last words.
        """
        return run([str(self.path), *arguments])


def run(command: list[str]) -> str:
    """Runs an nsys command line and returns what it said.

    Raises:
        UnavailableError: it failed, with its own last words, or did not end.
        LabError: what it watched could not be run, in its own words.
    """
    for _ in range(_TRIES):
        code, printed, complained = _run_once(command)
        if not code:
            return printed
        if _NEVER_MET not in complained:
            break
    words = (complained.strip() or printed.strip() or "it said nothing").splitlines()
    if words[-1].startswith("labkit: "):  # the watched process's own sentence: nsys did not fail
        kinds = {kind.exit_code: kind for kind in (UsageError, SourceError, WeightsError)}
        raise kinds.get(code, UnavailableError)(words[-1].removeprefix("labkit: "))
    failed = f"nsys {command[1]} failed ({code})"
    raise UnavailableError(f"{failed}: {words[-1]}; --engine torch profiles without nsys")


def _run_once(command: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; what nsys leaves when it fails is ended."""
    pipe, mark = subprocess.PIPE, secrets.token_hex(8)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace",
        env={**os.environ, _MARK: mark},
    ) as running:  # fmt: skip
        try:
            printed, complained = running.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            _end(running.pid, mark)
            raise UnavailableError(f"nsys {command[1]} did not end within {_LONGEST_S} s") from None
        except KeyboardInterrupt:
            _end(running.pid, mark)
            raise
        if running.returncode and _NEVER_MET in complained:
            _end(running.pid, mark)  # its agent would wait for ever
    return running.returncode, printed, complained


def _end(process: int, mark: str) -> None:
    """Ends nsys and its agent, which is soon a child of another process and would go on with a report."""
    end_tree(process, _END_S)
    end_marked(_MARK, mark, _END_S)


def find() -> Nsys | None:
    """The nsys of this machine: on the PATH, beside this Python, or where NVIDIA installs it."""
    beside = Path(sys.executable).with_name("nsys")
    usual = sorted((p for pattern in _USUAL_PLACES for p in glob(pattern)), reverse=True)
    for place in (shutil.which("nsys"), str(beside), *usual):
        if place and os.access(place, os.X_OK) and (version := _version_of(place)):
            return Nsys(Path(place), version)
    return None


def session() -> str | None:
    """The nsys session that watches this process; None where it was not started under nsys."""
    return os.environ.get(_SESSION)


def invisible(version: Version, nvtx: str | None = None) -> str | None:
    """Why this nsys sees no ranges of this nvtx package, and what helps; None if it does.

    Args:
        version: of nsys.
        nvtx: version of the nvtx package; default: the installed one.
    """
    installed = nvtx or installed_version("nvtx")
    if installed is None:
        return "the package nvtx is not installed, so no ranges are sent: pip install nvtx==0.2.11"
    if numbers(installed) >= (0, 2, 12) and version < (2024,):
        return (
            f"nsys {'.'.join(map(str, version))} loses every range that nvtx {installed} sends, without a "
            "word: pip install nvtx==0.2.11, or install nsys 2024 or later"
        )
    return None


def lost(emitted: Counter[str], held: Counter[str], version: Version) -> str | None:
    """Reason why a report is incomplete; None if it holds what the program sent.

    Args:
        emitted: ranges that the program sent, by name.
        held: ranges in the report, by name.
        version: of nsys.
    """
    missing = emitted - held
    if not missing:
        return None
    what = ", ".join(f"{name} {held[name]} of {emitted[name]}" for name in sorted(missing))
    cause = invisible(version) or (
        "the capture may have begun late or its buffer have been full; profile fewer frames, and if that "
        "does not help, --engine torch needs no nsys"
    )
    return f"the report lacks ranges ({what}): {cause}"


def numbers(version: str) -> Version:
    """The numbers of a version, e.g. "0.2.11" -> (0, 2, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-")[0].split("+")[0]))


def _version_of(path: str) -> Version | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version (\d+(?:\.\d+)+)", said.stdout)
    return numbers(found[1]) if found else None
