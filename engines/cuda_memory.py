"""Memory of CUDA's device 0 and copies to and from it, each waited for: for checks, not for frames.

Every call of the CUDA runtime returns its error beside its result; here it becomes an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import StreamDiffVSRError
from .protocol import DeviceArray, Engine, HostArray

LESS_MEMORY = "close what else uses it, or build with --tile, --flow-scale 2 or a smaller size"


def cuda_call(name: str, *arguments: Any) -> Any:
    """The result of a function of the CUDA runtime.

    Raises:
        StreamDiffVSRError: CUDA is not there, or the function failed, in CUDA's words.
    """
    try:
        from cuda.bindings import runtime as cudart

        code, *results = getattr(cudart, name)(*arguments)
        told = b"" if not int(code) else cudart.cudaGetErrorString(code)[1]
        full = code == cudart.cudaError_t.cudaErrorMemoryAllocation
    except Exception as error:  # no package, or no driver library
        raise StreamDiffVSRError(
            "CUDA cannot be used", f"{type(error).__name__}: {error}", "run streamdiffvsr doctor"
        ) from error
    if full:
        raise _out_of_memory(name, arguments)
    if int(code):
        raise StreamDiffVSRError(f"CUDA failed in {name}", told.decode(errors="replace"))
    return results[0] if results else None


def _out_of_memory(name: str, arguments: tuple[Any, ...]) -> StreamDiffVSRError:
    from cuda.bindings import runtime as cudart

    _, free, total = cudart.cudaMemGetInfo()
    asked = f"{arguments[0] / 2**20:.0f} MiB were needed" if name == "cudaMalloc" else name
    left = f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB are free"
    return StreamDiffVSRError("the GPU's memory is full", f"{asked}, {left}", LESS_MEMORY)


class CudaMemory:
    """A block of device memory, freed with the last reference."""

    def __init__(self, nbytes: int) -> None:
        self.address = int(cuda_call("cudaMalloc", max(1, nbytes)))

    def __del__(self) -> None:
        address, self.address = getattr(self, "address", 0), 0
        if address:
            cuda_call("cudaFree", address)


def to_device(array: HostArray) -> DeviceArray:
    """A copy of a host array on the device."""
    dense = np.ascontiguousarray(array)
    memory = CudaMemory(dense.nbytes)
    _copy(memory.address, dense.ctypes.data, dense.nbytes)
    return DeviceArray(memory.address, dense.shape, dense.dtype, memory)


def to_host(source: DeviceArray, target: HostArray) -> None:
    """Copy a device array into a dense host array of its shape and dtype."""
    _copy(target.ctypes.data, source.address, target.nbytes)


def run_on_device(
    engine: Engine, inputs: Mapping[str, HostArray], outputs: Mapping[str, HostArray]
) -> None:
    """Run an engine of a CUDA device once, from host arrays to host arrays."""
    on_device = {name: to_device(array) for name, array in {**inputs, **outputs}.items()}
    engine.bind(on_device).enqueue()
    for name, array in outputs.items():
        to_host(on_device[name], array)


def _copy(target: int, source: int, nbytes: int) -> None:
    from cuda.bindings import runtime as cudart

    cuda_call("cudaMemcpy", target, source, nbytes, cudart.cudaMemcpyKind.cudaMemcpyDefault)
