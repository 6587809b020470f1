"""A plan, ready to run on a CUDA device: TensorRT and TensorRT-RTX behind the `Engine` protocol.

The plan was checked against its digest and its library's version before it comes here: a plan is an
executable. Nothing of this module runs where there is no GPU, beyond saying so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..spec import GraphSpec, TensorSpec
from .cuda_memory import cuda_call
from .device import Stream
from .protocol import Bound, Buffer, DeviceArray, check_buffers
from .trt_build import DTYPES
from .trt_library import TrtLibrary, TrtLog

DIGEST_BYTES = 32


class TrtEngine:
    """One graph as a plan with its execution context.

    The bounds of one engine share its scratch memory: enqueue them on one stream.
    """

    def __init__(self, library: TrtLibrary, plan: Path, spec: GraphSpec) -> None:
        """Load a plan.

        Raises:
            StreamDiffVSRError: It cannot be loaded here, or is not the spec's.
        """
        self._library, self._spec, self._log = library, spec, TrtLog(library)
        try:
            data = plan.read_bytes()
        except OSError as error:
            raise StreamDiffVSRError(f"cannot read {plan}", error.strerror or str(error)) from None
        self._runtime = library.module.Runtime(self._log.handle)  # outlives its engines
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise StreamDiffVSRError(
                f"{library.title} cannot load {plan.name}",
                self._log.told(),
                "see streamdiffvsr doctor for the GPU and its driver, or rebuild the engines",
            )
        self._check_tensors(plan)
        self._context = self._make_context(plan.with_suffix(".kernels"))

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The plan on these device buffers; they are kept alive as long as the result is."""
        check_buffers(self._spec, buffers)
        addresses: dict[str, int] = {}
        for name, buffer in buffers.items():
            if not isinstance(buffer, DeviceArray):
                raise ValueError(f"{self._spec.name}.{name} needs a buffer on the device")
            addresses[name] = buffer.address
        return _BoundPlan(self, addresses, tuple(buffers.values()))

    def launch(self, addresses: Mapping[str, int], stream: int) -> None:
        """Put one run on a CUDA stream; `bind` is the way here.

        Raises:
            StreamDiffVSRError: The library refused a buffer or the launch.
        """
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                self._refused(f"takes no buffer for {name}")
        if not self._context.execute_async_v3(stream):
            self._refused("does not run")

    def _refused(self, what: str) -> None:
        raise StreamDiffVSRError(f"the {self._spec.name} engine {what}", self._log.told())

    def _check_tensors(self, plan: Path) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {
            TensorSpec(
                name,
                tuple(int(side) for side in engine.get_tensor_shape(name)),
                DTYPES.get(engine.get_tensor_dtype(name).name, "unknown"),
            )
            for name in names
        }
        if wrong := found ^ {*self._spec.inputs, *self._spec.outputs}:
            raise StreamDiffVSRError(
                f"{plan.name} is not the graph that its manifest describes",
                f"it differs in {', '.join(sorted({t.name for t in wrong}))}",
                "rebuild the engines",
            )

    def _make_context(self, kernels: Path) -> Any:
        """The execution context; kernels that TensorRT-RTX compiles for this GPU are kept."""
        config = self._engine.create_runtime_config()
        cache = None
        if config is not None and hasattr(config, "create_runtime_cache"):
            cache = config.create_runtime_cache()
        known = _read_checked(kernels) if cache is not None else b""
        if cache is not None:
            if known and not cache.deserialize(known):
                known = b""  # of another GPU, driver or version: compiled again
            config.set_runtime_cache(cache)
        context = self._engine.create_execution_context(config)
        if context is None:
            raise StreamDiffVSRError(
                f"the {self._spec.name} engine cannot be started",
                self._log.told(),
                "free GPU memory, or use --tile or a smaller input",
            )
        if cache is not None and not known:
            _write_checked(kernels, cache.serialize())
        return context


@dataclass(frozen=True, slots=True)
class _BoundPlan:
    """An engine with its buffers."""

    engine: TrtEngine
    addresses: Mapping[str, int]
    buffers: tuple[Buffer, ...]  # kept alive: the context holds addresses alone

    def enqueue(self, stream: Stream | None = None) -> None:
        if stream is not None:
            self.engine.launch(self.addresses, stream.handle)
            return
        own = cuda_call("cudaStreamCreate")
        try:
            self.engine.launch(self.addresses, int(own))
            cuda_call("cudaStreamSynchronize", own)
        finally:
            cuda_call("cudaStreamDestroy", own)


def _read_checked(path: Path) -> bytes:
    """What `_write_checked` wrote, or nothing: half a file of kernels is never handed on."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else b""


def _write_checked(path: Path, content: Any) -> None:
    """Keep kernels beside their plan; where that cannot be written they are compiled each time."""
    if content is None:
        return
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        part.write_bytes(hashlib.sha256(content).digest() + bytes(content))
        os.replace(part, path)
