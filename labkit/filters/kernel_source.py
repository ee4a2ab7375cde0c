"""Source text of the CUDA kernels in `kernels/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from labkit.core.errors import UsageError

KERNELS = Path(__file__).parent / "kernels"

_INCLUDE = re.compile(r'^#include "([^"]+\.(?:cu|h))"$', re.MULTILINE)


@cache
def kernel_source(file: str) -> str:
    """The text of `kernels/<file>`, with the other kernel files that it includes put in place.

    One self-contained text serves NVRTC, CuPy and the emulation alike, none of which then needs
    to know a folder.

    Raises:
        UsageError: there is no such file.
    """
    path = KERNELS / file
    if path.suffix not in (".cu", ".h") or path.parent != KERNELS or not path.is_file():
        known = ", ".join(kernel_files())
        raise UsageError(f"there is no kernel file {file!r}; there are {known}")
    text = path.read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: f'#line 1 "{match[1]}"\n{kernel_source(match[1])}', text)


def kernel_files() -> tuple[str, ...]:
    """Names of all kernel files, in rising order."""
    return tuple(sorted(path.name for path in KERNELS.glob("*.cu")))


def kernel_names(source: str) -> tuple[str, ...]:
    """Names of the `__global__` functions in a source text, in order."""
    return tuple(re.findall(r"__global__\s+void\s+(\w+)\s*\(", source))


def nvrtc_options(defines: Mapping[str, int | str]) -> tuple[str, ...]:
    """Options for NVRTC: the language, the macros, and fast division.

    Division is 2 units in the last place off instead of 0.5, which no grey level shows; the exact
    one is a subroutine that costs the fused kernel a fifth of its code and, for its registers, a
    quarter of the blocks that a multiprocessor of compute capability 9.0 holds.
    """
    return (
        "-std=c++17",
        "--prec-div=false",
        *(f"-D{name}={value}" for name, value in sorted(defines.items())),
    )
