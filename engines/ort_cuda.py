"""ONNX Runtime's CUDA provider on a caller's stream, without the host waiting.

A session computes on the one stream that it was made with. Events tie that stream into the
caller's: what was put there before is waited for, and what comes after waits for the session.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import StreamDiffVSRError
from ..spec import GraphSpec
from .cuda_device import CudaEvent, CudaStream
from .cuda_driver import LESS_MEMORY, Context
from .device import Stream
from .protocol import Buffer, DeviceArray

# The first release whose kernels keep the host memory that a captured copy reads again at every
# launch (microsoft/onnxruntime PR 32121): before it, a captured Concat reads freed addresses.
FIRST_CAPTURED = (1, 30)


class SessionStream:
    """The stream of one session, and the two events that tie it to another."""

    def __init__(self, context: Context) -> None:
        self.context, self.stream = context, CudaStream(context)
        self._before, self._after = CudaEvent(context), CudaEvent(context)

    def begin(self, stream: Stream) -> None:
        """Let the session wait for what was put on a stream."""
        stream.record(self._before)
        self.stream.wait(self._before)

    def end(self, stream: Stream) -> None:
        """Let what comes next on the stream wait for the session."""
        self.stream.record(self._after)
        stream.wait(self._after)


@dataclass(frozen=True, slots=True)
class BoundOnDevice:
    """A session with its buffers in the GPU's memory.

    Attributes:
        uncaptured: Why this release must not be captured, or an empty string.
    """

    session: Any
    binding: Any
    options: Any
    own: SessionStream
    buffers: tuple[Buffer, ...]  # kept alive: the binding holds addresses alone
    uncaptured: str = ""

    def why_not_captured(self, stream: Stream) -> str:
        """See `protocol.Bound`."""
        return self.uncaptured

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `protocol.Bound`."""
        if stream is not None:
            self.own.begin(stream)
        try:
            with self.own.context.current():
                self.session.run_with_iobinding(self.binding, self.options)
        except StreamDiffVSRError:
            raise
        except Exception as error:  # the binding raises its own untyped kinds
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StreamDiffVSRError(
                "an engine does not run on the GPU", told, LESS_MEMORY
            ) from error
        if stream is None:
            self.own.stream.synchronize()
        else:
            self.own.end(stream)


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
        shape = list(buffer.shape)
        put(name, "cuda", own.context.ordinal, buffer.dtype.type, shape, buffer.address)
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    kept = tuple(buffers.values())
    return BoundOnDevice(session, binding, options, own, kept, why_uncaptured(ort.__version__))


def why_uncaptured(version: str) -> str:
    """Why sessions of a release must not be captured, or an empty string."""
    major, minor, *_ = (*version.split("."), "0")
    if (int(major), int(minor)) >= FIRST_CAPTURED:
        return ""
    first = ".".join(str(part) for part in FIRST_CAPTURED)
    return f"ONNX Runtime {version} cannot be captured safely; {first} can"


@cache
def find_cuda_libraries() -> str:
    """Load the CUDA libraries that pip or torch installed, where the provider will look for them.

    Gives what ONNX Runtime says of those that it does not find. It prints that to stdout, which
    may be a program's JSON.
    """
    import onnxruntime as ort

    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    return said.getvalue()
