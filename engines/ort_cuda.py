"""ONNX Runtime's CUDA provider on a caller's stream, without the host waiting.

A session computes on the one stream that it was made with. Events tie that stream into the
caller's: what was put there before is waited for, and what comes after waits for the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StreamDiffVSRError
from ..spec import GraphSpec
from .cuda_memory import LESS_MEMORY, cuda_call
from .device import Stream
from .protocol import Buffer, DeviceArray

NON_BLOCKING, NO_TIMING = 1, 2  # cudaStreamNonBlocking, cudaEventDisableTiming


class SessionStream:
    """The stream of one session, and the two events that tie it to another."""

    def __init__(self) -> None:
        self._before = self._after = self.handle = 0
        self.handle = int(cuda_call("cudaStreamCreateWithFlags", NON_BLOCKING))
        self._before = int(cuda_call("cudaEventCreateWithFlags", NO_TIMING))
        self._after = int(cuda_call("cudaEventCreateWithFlags", NO_TIMING))

    def begin(self, stream: int) -> None:
        """Let the session wait for what was put on a stream."""
        cuda_call("cudaEventRecord", self._before, stream)
        cuda_call("cudaStreamWaitEvent", self.handle, self._before, 0)

    def end(self, stream: int) -> None:
        """Let what comes next on the stream wait for the session."""
        cuda_call("cudaEventRecord", self._after, self.handle)
        cuda_call("cudaStreamWaitEvent", stream, self._after, 0)

    def synchronize(self) -> None:
        """Wait for the session."""
        cuda_call("cudaStreamSynchronize", self.handle)

    def __del__(self) -> None:
        for event in (self._before, self._after):
            if event:
                cuda_call("cudaEventDestroy", event)
        if self.handle:
            cuda_call("cudaStreamDestroy", self.handle)


@dataclass(frozen=True, slots=True)
class BoundOnDevice:
    """A session with its buffers in the GPU's memory."""

    session: Any
    binding: Any
    options: Any
    own: SessionStream
    buffers: tuple[Buffer, ...]  # kept alive: the binding holds addresses alone

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `protocol.Bound`."""
        if stream is not None:
            self.own.begin(stream.handle)
        try:
            self.session.run_with_iobinding(self.binding, self.options)
        except Exception as error:  # the binding raises its own untyped kinds
            told = str(error).splitlines()[0]
            raise StreamDiffVSRError(
                "an engine does not run on the GPU", told, LESS_MEMORY
            ) from error
        if stream is None:
            self.own.synchronize()
        else:
            self.own.end(stream.handle)


def bind_on_device(
    session: Any, own: SessionStream, spec: GraphSpec, buffers: Mapping[str, Buffer]
) -> BoundOnDevice:
    """A session on these device buffers, one for every tensor; the caller has checked them."""
    import onnxruntime as ort

    binding = session.io_binding()
    inputs = {t.name for t in spec.inputs}
    for name, buffer in buffers.items():
        if not isinstance(buffer, DeviceArray):
            raise ValueError(f"{spec.name}.{name} needs a buffer on the device")
        put = binding.bind_input if name in inputs else binding.bind_output
        put(name, "cuda", 0, buffer.dtype.type, list(buffer.shape), buffer.address)
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return BoundOnDevice(session, binding, options, own, tuple(buffers.values()))
