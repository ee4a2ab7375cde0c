"""What the compiler makes of the kernels, with no GPU and no driver: NVRTC to machine code.

Registers, shared memory and stack are read from the compiled code itself (an ELF file). What
follows from them by arithmetic alone, such as occupancy, is marked "worked out".

    python -m labkit.filters.compile

prints it for every kernel and every architecture.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from labkit.core.errors import UnavailableError, UsageError
from labkit.filters.kernel_source import nvrtc_options
from labkit.filters.launch_config import RECIPES, Plan, Shape, plan

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities x 10: Turing, Ampere (A100, RTX 30), Ada, Hopper, Blackwell (B200, RTX 50)."""


@dataclass(frozen=True)
class Multiprocessor:
    """What one streaming multiprocessor (SM) holds at once (CUDA C++ Programming Guide)."""

    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536
    shared_reserved_bytes: int = 1024  # per block, taken by the system from 8.0 on


MULTIPROCESSORS: dict[int, Multiprocessor] = {
    75: Multiprocessor(1024, 16, 64 * 1024, shared_reserved_bytes=0),
    80: Multiprocessor(2048, 32, 164 * 1024),
    86: Multiprocessor(1536, 16, 100 * 1024),
    89: Multiprocessor(1536, 24, 100 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Compiled:
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
        return min(self._limits().values())

    @property
    def limited_by(self) -> str:
        """What keeps one more block out: registers, shared memory, threads or blocks. Worked out."""
        limits = self._limits()
        return min(limits, key=lambda name: limits[name])

    @property
    def occupancy(self) -> float:
        """Resident threads / the most that a multiprocessor holds, in [0, 1]. Worked out."""
        return self.blocks_per_sm * self.threads / MULTIPROCESSORS[self.arch].threads

    def _limits(self) -> dict[str, int]:
        sm = MULTIPROCESSORS[self.arch]
        warps = -(-self.threads // 32)
        per_warp = -(-self.registers * 32 // 256) * 256  # registers are handed out in units of 256 per warp
        shared = self.shared_bytes + sm.shared_reserved_bytes
        return {
            "threads": sm.threads // (warps * 32),
            "blocks": sm.blocks,
            # Each quarter of a multiprocessor has its own quarter of the registers and of the warps.
            "registers": 4 * (sm.registers // 4 // max(per_warp, 1)) // warps,
            "shared memory": sm.shared_bytes // shared if shared else sm.blocks,
        }


def compile_cubin(source: str, defines: Mapping[str, int | str], arch: int) -> bytes:
    """Compiles a kernel's text to machine code with NVRTC; needs neither a GPU nor a driver.

    Args:
        source: self-contained CUDA C++.
        defines: macros, as -Dname=value.
        arch: compute capability x 10, e.g. 90.

    Raises:
        UsageError: it does not compile; the compiler's message is in the error.
        UnavailableError: NVRTC is not installed.
    """
    nvrtc = _nvrtc()
    options = (f"-arch=sm_{arch}", *nvrtc_options(defines))
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program).strip()
        raise UsageError(f"the kernel does not compile for sm_{arch}:\n{log or error}") from error
    finally:
        nvrtc.destroyProgram(program)


def compile_plan(made: Plan, arch: int) -> tuple[Compiled, ...]:
    """The kernels of one plan for one architecture, in launch order; raises as `compile_cubin`."""
    measured = resources(compile_cubin(made.source, made.defines, arch), arch)
    pixels = made.shape[0] * made.shape[1]
    return tuple(
        Compiled(
            made.file,
            launch.kernel,
            arch,
            threads=launch.threads,
            bytes_per_pixel=made.bytes_moved(launch) / pixels,
            **measured[launch.kernel],
        )
        for launch in made.launches
    )


def table(
    architectures: Sequence[int] = ARCHITECTURES, *, shape: Shape = (480, 640, 3), radius: int = 4
) -> tuple[Compiled, ...]:
    """Every kernel of every file for each architecture; raises as `compile_cubin`."""
    return tuple(
        row
        for file in RECIPES
        for arch in architectures
        for row in compile_plan(plan(file, shape, radius), arch)
    )


def as_text(rows: Sequence[Compiled]) -> str:
    """Compiled kernels as a table of at most 80 columns."""
    head = f"{'file':<19}{'kernel':<21}{'sm':>4}{'regs':>5}{'shared B':>9}{'spilled':>8}{'code B':>7}"
    head += f"{'occup.':>7}"
    lines = [
        f"{row.file.removesuffix('.cu'):<19}{row.kernel:<21}{row.arch:>4}{row.registers:>5}"
        f"{row.shared_bytes:>9}{row.stack_bytes:>8}{row.code_bytes:>7}{row.occupancy:>7.0%}"
        for row in rows
    ]
    return "\n".join([head, *lines, "Read from the compiled code, for radius 4; occupancy is worked out."])


# The ELF file of a kernel: per kernel a section .text.<name> (instructions) and, where it has any,
# .nv.shared.<name> (static shared memory, size only); .nv.info lists registers and stack per symbol.
_SHT_SYMTAB = 2
_INFO_SIZED_VALUE = 4  # format byte of an .nv.info entry whose payload follows its length
_INFO_FRAME_SIZE = 0x11
_INFO_REGISTERS = 0x2F


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    link: int
    size: int
    data: bytes


def resources(cubin: bytes, arch: int) -> dict[str, dict[str, int]]:
    """Registers, shared memory, stack and code size of each kernel in a CUBIN.

    Args:
        cubin: as `compile_cubin` returns it.
        arch: what it was compiled for. From 90 on, the shared memory that the system takes for
            itself stands in the file too and is left out here, as ptxas does in its report.

    Returns:
        By kernel name: registers, shared_bytes, stack_bytes, code_bytes.

    Raises:
        UsageError: it is no CUBIN.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise UsageError("this is no CUBIN: machine code of the CUDA compiler is a 64-bit ELF file")
    sections = _sections(cubin)
    sizes = {section.name: section.size for section in sections}
    reserved = 1024 if arch >= 90 else 0
    symbols = _symbols(sections)
    found = {
        name.removeprefix(".text."): {
            "registers": 0,
            "shared_bytes": max(sizes.get(f".nv.shared.{name.removeprefix('.text.')}", 0) - reserved, 0),
            "stack_bytes": 0,
            "code_bytes": size,
        }
        for name, size in sizes.items()
        if name.startswith(".text.")
    }
    fields = {_INFO_REGISTERS: "registers", _INFO_FRAME_SIZE: "stack_bytes"}
    for section in sections:
        if section.name == ".nv.info":
            for attribute, symbol, value in _info_entries(section.data):
                if attribute in fields and symbols.get(symbol) in found:
                    found[symbols[symbol]][fields[attribute]] = value
    return found


def _sections(elf: bytes) -> list[_Section]:
    (offset,) = struct.unpack_from("<Q", elf, 0x28)
    entry_size, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * entry_size) for i in range(count)]
    names = elf[headers[names_at][4] :]
    return [
        _Section(_c_string(names, name), kind, link, size, b"" if kind == 8 else elf[start : start + size])
        for name, kind, _flags, _address, start, size, link, _info, _align, _entry in headers
    ]


def _symbols(sections: list[_Section]) -> dict[int, str]:
    for section in sections:
        if section.kind == _SHT_SYMTAB:
            names = sections[section.link].data
            return {
                i: _c_string(names, struct.unpack_from("<I", section.data, 24 * i)[0])
                for i in range(len(section.data) // 24)
            }
    return {}


def _info_entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(attribute, symbol, value) of the entries that hold two 32-bit numbers."""
    at = 0
    while at + 4 <= len(data):
        layout, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if layout == _INFO_SIZED_VALUE:
            if size == 8:
                symbol, value = struct.unpack_from("<II", data, at)
                yield attribute, symbol, value
            at += size


def _c_string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


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


def main() -> None:
    """Prints the table, or why there is none."""
    try:
        print(as_text(table()))
    except UnavailableError as error:
        raise SystemExit(f"labkit: {error}") from error


if __name__ == "__main__":
    main()
