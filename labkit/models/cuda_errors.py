"""CUDA errors as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from labkit.core.errors import UnavailableError

_ROOM = "close other programs that use it (nvidia-smi lists them), or use fewer --objects or a smaller --size"


@contextmanager
def explain_cuda_errors(what: str) -> Iterator[None]:
    """Turn CUDA errors raised inside into `UnavailableError`s that say what to do.

    Args:
        what: the rung, for the message.

    Raises:
        UnavailableError: the GPU's memory ran out, or its context is broken.
    """
    problem = None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        problem = _memory_ran_out(what, error) or _failed(what, error)
        if problem is None:
            raise
    if problem is not None:  # raised out here, since the caught exception would keep its tensors alive
        raise UnavailableError(problem)


def _memory_ran_out(what: str, error: Exception) -> str | None:
    """Torch's, CUDA's and CuPy's ways to say so; none of them breaks anything."""
    words = str(error)
    by_cuda = "CUDA error: out of memory" in words or "cudaErrorMemoryAllocation" in words
    by_cupy = isinstance(error, MemoryError) and type(error).__module__.startswith("cupy")
    if not (by_cuda or by_cupy or isinstance(error, torch.OutOfMemoryError)):
        return None
    return f"{what}: the GPU's memory ran out; {_ROOM}"


def _failed(what: str, error: Exception) -> str | None:
    if not any(name in str(error) for name in ("CUDA", "cudaError", "cuDNN")):
        return None
    first = str(error).splitlines()[0]
    if first.startswith("cuDNN"):
        return f"{what}: {first}, most often for want of memory; {_ROOM}, or restart the kernel"
    return (
        f"{what}: {first}. After such an error nothing runs on the GPU in this process "
        "any more: restart the kernel; rungs measured in processes of their own are not affected"
    )
