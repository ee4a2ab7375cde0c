"""A GPU that is not there, for tests: as strict as a real one, but without speed.

`gpu` has the tensors, streams and graphs that torch sees, `order` knows what has to come before
what, and `kernels` launches CUDA kernels on the CPU in CuPy's place.
"""

from pretended.gpu import Gpu, pretend_gpu
from pretended.kernels import pretend_cupy
from pretended.order import GpuError

__all__ = ["Gpu", "GpuError", "pretend_cupy", "pretend_gpu"]
