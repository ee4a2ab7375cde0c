"""The CUDA kernels compiled by NVRTC, with no GPU and no driver: registers, memory, occupancy.

Registers, shared memory and stack come from the compiler's own report, the size of the code from the
compiled file. What follows from them by arithmetic alone, such as occupancy, is marked "worked out".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from labkit.core.errors import UnavailableError, UsageError
from labkit.filters.kernel_source import nvrtc_options
from labkit.filters.launch_config import LaunchPlan

CUPY_ADDS = ("--device-as-default-execution-space", "-ftz=true")
"""Options that CuPy gives NVRTC for every kernel that it builds: what is examined here is what will run."""


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one streaming multiprocessor (SM), from the CUDA C++ Programming Guide."""

    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536
    shared_reserved_bytes: int = 1024  # per block, taken by the system from 8.0 on


_PTXAS_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame"
    r".*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)
"""One kernel in the report of `ptxas -v`."""

MULTIPROCESSORS: dict[int, Multiprocessor] = {
    75: Multiprocessor(1024, 16, 64 * 1024, shared_reserved_bytes=0),
    80: Multiprocessor(2048, 32, 164 * 1024),
    86: Multiprocessor(1536, 16, 100 * 1024),
    89: Multiprocessor(1536, 24, 100 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}
"""By compute capability x 10: Turing, Ampere (A100, RTX 30), Ada, Hopper, Blackwell (B200, RTX 50)."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel, compiled for one architecture.

    Attributes:
        file, kernel: which.
        arch: compute capability x 10.
        registers: per thread.
        shared_bytes: static shared memory per block.
        stack_bytes: per thread in (slow) local memory; 0 means that nothing was spilled.
        threads: per block, as launched.
        bytes_per_pixel: global memory traffic of the launch, all channels together, each array
            once. Worked out.
        code_bytes: machine instructions.
    """

    file: str
    kernel: str
    arch: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    threads: int
    code_bytes: int
    bytes_per_pixel: float

    @property
    def blocks_per_sm(self) -> int:
        """Blocks that one multiprocessor holds at once. Worked out."""
        sm = MULTIPROCESSORS[self.arch]
        warps = -(-self.threads // 32)
        per_warp = -(-self.registers * 32 // 256) * 256  # registers are handed out in units of 256 per warp
        shared = self.shared_bytes + sm.shared_reserved_bytes
        return min(
            sm.threads // (warps * 32),
            sm.blocks,
            # Each quarter of a multiprocessor has its own quarter of the registers and of the warps.
            4 * (sm.registers // 4 // max(per_warp, 1)) // warps,
            sm.shared_bytes // shared if shared else sm.blocks,
        )

    @property
    def occupancy(self) -> float:
        """Resident threads / the most that a multiprocessor holds, in [0, 1]. Worked out."""
        return self.blocks_per_sm * self.threads / MULTIPROCESSORS[self.arch].threads


def compile_source(source: str, defines: Mapping[str, int | str], arch: int) -> dict[str, dict[str, int]]:
    """Compile kernels to machine code and return what each needs; takes neither GPU nor driver.

    Args:
        source: self-contained CUDA C++.
        defines: macros, as -Dname=value.
        arch: compute capability x 10, e.g. 90.

    Returns:
        By kernel name: registers, shared_bytes, stack_bytes, code_bytes; see `CompiledKernel`.

    Raises:
        UsageError: it does not compile; the compiler's message is in the error.
        UnavailableError: NVRTC is not installed.
    """
    report, cubin = _compiled(source, defines, arch)
    from llvmlite.binding import ObjectFileRef  # comes with numba

    # A CUBIN is an ELF file with a section .text.<kernel> for each kernel's instructions.
    section_bytes = {section.name(): section.size() for section in ObjectFileRef.from_data(cubin).sections()}
    return {
        entry["kernel"]: {
            "registers": int(entry["registers"]),
            "shared_bytes": int(entry["shared"] or 0),
            "stack_bytes": int(entry["stack"]),
            "code_bytes": section_bytes[b".text." + entry["kernel"].encode()],
        }
        for entry in _PTXAS_ENTRY.finditer(report)
    }


def _compiled(source: str, defines: Mapping[str, int | str], arch: int) -> tuple[str, bytes]:
    """The compiler's report, and the CUBIN."""
    nvrtc = _nvrtc()
    options = (f"-arch=sm_{arch}", "--ptxas-options=-v", *nvrtc_options(defines), *CUPY_ADDS)
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        # CuPy takes the file for a text and leaves its last byte, a zero, out.
        return nvrtc.getProgramLog(program), bytes(nvrtc.getCUBIN(program)) + b"\0"
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program).strip()
        raise UsageError(f"the kernel does not compile for sm_{arch}:\n{log or error}") from error
    finally:
        nvrtc.destroyProgram(program)


def compile_plan(made: LaunchPlan, arch: int) -> tuple[CompiledKernel, ...]:
    """Compile the kernels of a plan for one architecture, in launch order; raises as `compile_source`."""
    resources = compile_source(made.source, made.defines, arch)
    pixels = made.shape[0] * made.shape[1]
    return tuple(
        CompiledKernel(
            made.file,
            launch.kernel,
            arch,
            threads=launch.threads,
            bytes_per_pixel=made.bytes_moved(launch) / pixels,
            **resources[launch.kernel],
        )
        for launch in made.launches
    )


@cache
def _nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # CuPy reports a missing library in several ways, by version
        raise UnavailableError(
            f"compiling CUDA kernels needs CuPy with NVRTC ({error}); install labkit[gpu]"
        ) from error
    return nvrtc
