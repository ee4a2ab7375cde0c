"""A GPU that is not there, for tests: as strict as a real one, but without speed.

`gpu` has the tensors, streams and graphs that torch sees, `order` knows what has to come before
what, and `kernels` launches CUDA kernels on the CPU in CuPy's place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fake_gpu.gpu import Gpu, install_fake_gpu
from fake_gpu.kernels import install_fake_cupy
from fake_gpu.order import GpuError
from labkit.core import requirements
from labkit.models import preprocess
from labkit.models.engines import cuda_graph

__all__ = ["Gpu", "GpuError", "a_gpu"]

KNOWN = requirements._no_cuda, preprocess._kept
"""What is remembered of a GPU: whether there is one, and constants that lie on it."""


@contextmanager
def a_gpu() -> Iterator[Gpu]:
    """A GPU that is not there for the length of a block, for torch and CuPy.

    Raises:
        GpuError: memory was freed too early.
    """
    _forget()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_graph, "WARM_UP", 1)  # there are no kernels to choose from
            with install_fake_gpu(patch) as gpu, install_fake_cupy(patch):
                yield gpu
    finally:
        _forget()


def _forget() -> None:
    for each in KNOWN:
        each.cache_clear()
