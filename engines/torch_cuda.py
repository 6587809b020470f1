"""torch's operators on a GPU's buffers and a caller's stream: one CUDA graph for each bound.

A graph is captured when buffers are bound, after one run that lets the libraries set themselves up,
and only replayed after that: nothing is allocated, and the host waits for nothing. Knows nothing of
how a program is read.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .cuda_driver import capture_lock, no_collection
from .device import Stream
from .protocol import Buffer, DeviceArray
from .torch_program import Module

TRIES = 2  # another thread's wait for the device can break a capture
Told = Callable[[], contextlib.AbstractContextManager[None]]


class Launches:
    """How the bounds of one engine run its module.

    They share one pool of scratch memory, which is right as long as they run one after another.

    Args:
        device: torch's name of the GPU with its number, "cuda:0".
    """

    def __init__(self, module: Module, device: str) -> None:
        from torch import cuda

        self._module, self.device = module, device
        self._warm, self._tries = False, TRIES
        self._pool = cuda.graph_pool_handle()
        self._side: Any = cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """A CUDA graph of one run, or None where torch cannot capture one.

        Raises:
            torch.OutOfMemoryError: The run does not fit.
        """
        import torch

        if not self._tries:  # a capture that fails can leave its memory behind
            return None
        # torch waits for the whole device before it captures, which breaks any other capture. And
        # one of torch's that fails leaves its side stream the current one: the outer pair of
        # device and stream puts back what was.
        with capture_lock, no_collection(), torch.cuda.device(self.device), _own_stream():
            if not self._warm:
                gc.collect()  # now, as nothing is collected while it captures
                self._run_once(inputs)
            graph = torch.cuda.CUDAGraph()
            mode = "thread_local"  # other threads may allocate while this one captures
            try:
                with torch.cuda.graph(graph, self._pool, self._side, capture_error_mode=mode):
                    self.run(inputs, outputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # of an operator that waits for the device: it runs uncaptured
                self._tries -= 1
                return None
            return graph

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Put one run on torch's current stream, operator by operator."""
        import torch

        with torch.inference_mode(), exact_kernels():
            for target, result in zip(outputs, self._module(*inputs), strict=True):
                target.copy_(result)

    def _run_once(self, inputs: Sequence[Any]) -> None:
        """Let the libraries set themselves up, which no capture may hold."""
        import torch

        with torch.inference_mode(), exact_kernels(), torch.cuda.stream(self._side):
            self._side.wait_stream(torch.cuda.default_stream())  # the weights are there
            self._module(*inputs)
        self._side.synchronize()
        self._warm = True


class BoundOnDevice:
    """A module with the tensors of one set of device buffers."""

    def __init__(
        self, launches: Launches, inputs: Sequence[Buffer], outputs: Sequence[Buffer], told: Told
    ) -> None:
        """Capture it.

        Args:
            told: Makes torch's errors inside one line.
        """
        self._launches, self._told = launches, told
        self._inputs = _viewed(inputs, launches.device)
        self._outputs = _viewed(outputs, launches.device)
        self._graph = launches.capture(self._inputs, self._outputs)

    def why_not_captured(self, stream: Stream) -> str:
        """See `protocol.Bound`: CUDA launches no graph into a stream that is being captured."""
        if self._graph is not None:
            return "torch's engines are CUDA graphs already, each launched by itself"
        return "torch could not capture an operator of it"

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `protocol.Bound`."""
        import torch

        device = self._launches.device
        with self._told(), torch.cuda.device(device):
            if stream is None:
                self._launch()
                torch.cuda.current_stream().synchronize()
                return
            theirs = torch.cuda.ExternalStream(stream.handle, device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(theirs):
                self._launch()

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._launches.run(self._inputs, self._outputs)


def _own_stream() -> Any:
    """What puts torch's current stream back at its end, whoever has switched it inside."""
    import torch

    return torch.cuda.stream(torch.cuda.current_stream())


class _Exposed:
    """A device buffer as other libraries read it; it lives as long as a tensor on it."""

    def __init__(self, buffer: DeviceArray) -> None:
        self.buffer = buffer
        self.__cuda_array_interface__ = {
            "shape": buffer.shape,
            "typestr": buffer.dtype.str,
            "data": (buffer.address, False),
            "version": 3,
        }


def _viewed(buffers: Sequence[Buffer], device: str) -> list[Any]:
    """Tensors over device buffers, without a copy."""
    import torch

    if not all(isinstance(buffer, DeviceArray) for buffer in buffers):
        raise ValueError("an engine on a GPU needs buffers on the device")
    exposed = [_Exposed(buffer) for buffer in buffers if isinstance(buffer, DeviceArray)]
    return [torch.as_tensor(one, device=device) for one in exposed]


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """No TF32 and no kernels that add in another order each time, whatever the process has set.

    TF32 would move fp32 results by 1e-3, and the frames of one run be others in the next. These are
    settings of the whole process: what is exact already is left alone.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv]
    changed = [(place, place.fp32_precision) for place in places if place.fp32_precision != "ieee"]
    chosen = (cudnn.benchmark, cudnn.deterministic)
    try:
        if chosen != (False, True):
            cudnn.benchmark, cudnn.deterministic = False, True
        for place, _ in changed:
            place.fp32_precision = "ieee"
        yield
    finally:
        if chosen != (False, True):
            cudnn.benchmark, cudnn.deterministic = chosen
        for place, precision in changed:
            place.fp32_precision = precision
