"""What a GPU's faults mean, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from labkit.errors import UnavailableError


@contextmanager
def faults_explained(what: str) -> Iterator[None]:
    """Turns CUDA errors raised inside into `UnavailableError`s that say what to do.

    Args:
        what: the rung, for the message.

    Raises:
        UnavailableError: the GPU's memory ran out, or its context is broken.
    """
    problem = None
    try:
        yield
    except torch.OutOfMemoryError:
        problem = (
            f"{what}: the GPU's memory ran out; close other programs that use it (nvidia-smi lists "
            "them), or use fewer --objects or a smaller --size"
        )
    except RuntimeError as error:
        if "CUDA" not in str(error) and "cudaError" not in str(error):
            raise
        first = str(error).splitlines()[0]
        problem = (
            f"{what}: {first}. After such an error nothing runs on the GPU in this process any more: "
            "restart the kernel; rungs measured in processes of their own are not affected"
        )
    if problem is not None:  # raised out here, since the caught exception would keep its tensors alive
        raise UnavailableError(problem)
