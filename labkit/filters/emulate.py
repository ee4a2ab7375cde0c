"""Emulation of CUDA kernels on the CPU: compiled by g++, one CPU thread per CUDA thread.

Slow and exact: for small images, to see whether a kernel is right. The kernel runs in a process
of its own, so a crash or an endless loop costs no more than a message.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.scratch import kept_scratch_folder, scratch_folder
from labkit.filters.kernel_source import KERNELS, kernel_names
from labkit.filters.launch_config import Dim3

Sanitizer = Literal["thread", "address"]
Defines = Mapping[str, int | str]

COMPILE_TIMEOUT_S = 120.0
_REFUSED = 3


def emulate_launch(
    source: str | Path,
    kernel: str,
    args: Sequence[Any],
    grid: Sequence[int],
    block: Sequence[int],
    defines: Defines | None = None,
    *,
    timeout_s: float = 60.0,
) -> None:
    """Run one launch of a kernel on the CPU; what it writes is written into the arrays of `args`.

    Args:
        source: the kernel's text, or a `Path` to it. Shared arrays have a fixed size.
        kernel: name of a `__global__` function in it.
        args: in the kernel's order. Arrays are C-contiguous and are changed in place (read-only
            ones stay as they are); int becomes int32, float becomes float32, NumPy scalars keep
            their type.
        grid: blocks in x, y, z; missing ones are 1.
        block: threads per block in x, y, z; at most 1024.
        defines: macros, as -Dname=value.
        timeout_s: of the run.

    Raises:
        UsageError: it does not compile (the compiler's message is in the error), the arguments
            do not fit, it crashed, or it did not end in time.
        UnavailableError: there is no g++.
    """
    finished = _run(source, kernel, args, grid, block, defines, None, timeout_s)
    if finished.returncode == _REFUSED:
        raise UsageError(f"{kernel}: {finished.stderr.strip().removeprefix('cuda_on_cpu: ')}")
    if finished.returncode != 0:
        raise UsageError(
            f"{kernel} crashed ({_how(finished.returncode)}); most likely it read or wrote outside an array: "
            "labkit.filters.emulate.diagnose(..., sanitizer='address') names the line"
        )


def diagnose(
    source: str | Path,
    kernel: str,
    args: Sequence[Any],
    grid: Sequence[int],
    block: Sequence[int],
    defines: Defines | None = None,
    *,
    sanitizer: Sanitizer = "thread",
    timeout_s: float = 120.0,
) -> str:
    """Run a kernel as `emulate_launch` does, under a sanitizer of the compiler; `args` stay unchanged.

    Args:
        sanitizer: "thread" finds races (a missing `__syncthreads()`), "address" reads and writes
            outside arrays.

    Returns:
        The sanitizer's report, "" where it found nothing.

    Raises:
        UsageError: as `emulate_launch`.
        UnavailableError: no g++, or its sanitizer does not run on this machine.
    """
    copies = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
    finished = _run(source, kernel, copies, grid, block, defines, sanitizer, timeout_s)
    report = finished.stderr
    if finished.returncode == 0:
        return ""
    if finished.returncode == _REFUSED:
        raise UsageError(f"{kernel}: {report.strip().removeprefix('cuda_on_cpu: ')}")
    if "WARNING: ThreadSanitizer" in report or "ERROR: AddressSanitizer" in report:
        return report
    raise UnavailableError(
        f"the {sanitizer} sanitizer does not run here ({_how(finished.returncode)}): {report.strip()[:300]}"
    )


def _run(
    source: str | Path,
    kernel: str,
    args: Sequence[Any],
    grid: Sequence[int],
    block: Sequence[int],
    defines: Defines | None,
    sanitizer: Sanitizer | None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    names = kernel_names(text)
    if kernel not in names:
        raise UsageError(f"the source has no kernel {kernel!r}; it has {', '.join(names) or 'none'}")
    sizes = (*_dim3("grid", grid), *_dim3("block", block))
    if prod(sizes[3:]) > 1024:
        raise UsageError(f"a block has at most 1024 threads, not {prod(sizes[3:])} ({sizes[3:]})")
    values = [_value(i, arg) for i, arg in enumerate(args)]
    program = _build(text, tuple(sorted((defines or {}).items())), sanitizer)
    with scratch_folder("emulate") as folder:
        data = folder / "args"
        data.write_bytes(b"".join(v.nbytes.to_bytes(8, "little") + v.tobytes() for v in values))
        command = [str(program), kernel, *map(str, sizes), str(data)]
        finished = _call(command, timeout_s, f"{kernel} did not end within {timeout_s:g} s: an endless loop?")
        if finished.returncode == 0:
            _read_back(data.read_bytes(), values)
    return finished


def _dim3(name: str, sizes: Sequence[int]) -> Dim3:
    whole = tuple(int(size) for size in sizes)
    if not 1 <= len(whole) <= 3 or min(whole) < 1:
        raise UsageError(f"{name} has 1 to 3 sizes of 1 or more, not {tuple(sizes)}")
    x, y, z = (*whole, 1, 1)[:3]
    return x, y, z


def _value(i: int, arg: Any) -> Any:
    if isinstance(arg, np.ndarray):
        if not arg.flags.c_contiguous:
            raise UsageError(f"argument {i} is not C-contiguous; use numpy.ascontiguousarray")
        return arg
    if isinstance(arg, bool) or not isinstance(arg, int | float | np.generic):
        raise UsageError(f"argument {i} is an array or a number, not {type(arg).__name__}")
    if isinstance(arg, np.generic):
        return arg
    return np.int32(arg) if isinstance(arg, int) else np.float32(arg)


def _read_back(data: bytes, values: list[Any]) -> None:
    at = 0
    for value in values:
        length = int.from_bytes(data[at : at + 8], "little")
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value[...] = np.frombuffer(data, value.dtype, value.size, at + 8).reshape(value.shape)
        at += 8 + length


@cache
def _build(text: str, defines: tuple[tuple[str, int | str], ...], sanitizer: Sanitizer | None) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        raise UnavailableError("running a kernel on the CPU needs g++; install it (Debian: apt install g++)")
    digest = hashlib.sha256(repr((text, defines, sanitizer)).encode()).hexdigest()[:16]
    written = _folder() / f"{digest}.cpp"
    program = written.with_suffix("")
    written.write_text(_program(text), encoding="utf-8")
    options = ["-std=c++20", "-O1", "-pthread"]
    if "__syncthreads" not in text and sanitizer != "thread":
        options.append("-DSERIAL")
    options += [f"-fsanitize={sanitizer}", "-g"] if sanitizer else []
    command = [
        compiler,
        *options,
        f"-I{_compiled_header(compiler, tuple(options))}",
        f"-I{KERNELS}",
        *(f"-D{name}={value}" for name, value in defines),
        str(written),
        "-o",
        str(program),
    ]
    finished = _call(command, COMPILE_TIMEOUT_S, f"g++ did not end within {COMPILE_TIMEOUT_S:g} s")
    if finished.returncode != 0:
        raise UsageError(f"the kernel does not compile:\n{finished.stderr.strip()}")
    return program


@cache
def _compiled_header(compiler: str, options: tuple[str, ...]) -> Path:
    """A folder with the emulation's header compiled for these options: two thirds of a kernel's compile time.

    A compiler that cannot use it reads the header itself, which lies in the next folder.
    """
    folder = kept_scratch_folder("header")  # threads that come at once write one each
    made = folder / "cuda_on_cpu.h.gch"
    command = [compiler, *options, "-x", "c++-header", str(KERNELS / "cuda_on_cpu.h"), "-o", str(made)]
    _call(command, COMPILE_TIMEOUT_S, f"g++ did not end within {COMPILE_TIMEOUT_S:g} s")
    return folder


def _program(text: str) -> str:
    """The emulation, the kernel's text and a `main` that calls the kernel it is asked for."""
    calls = "\n".join(
        f'    if (!std::strcmp(argv[1], "{name}")) return cuda_on_cpu::main_for({name}, argv);'
        for name in kernel_names(text)
    )
    return (
        f'#include "cuda_on_cpu.h"\n#line 1 "kernel.cu"\n{text}\n'
        f"int main(int, char **argv)\n{{\n{calls}\n    return 5;\n}}\n"
    )


@cache
def _folder() -> Path:
    return kept_scratch_folder("kernels")


def _call(command: list[str], timeout_s: float, late: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},  # messages in English
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(late) from error


def _how(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
