"""A TensorRT or TensorRT-RTX plan on a CUDA device as an `Engine`.

A plan is an executable: its origin, its digest and its library's version are checked before it gets
here.
Without a GPU this module can only report that.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durable import write_atomically
from ..errors import StreamDiffVSRError, option
from ..graphs.spec import GraphSpec, TensorSpec
from ..reading import read_small
from .cuda_device import CudaStream
from .cuda_driver import Context, Handle, capture_lock, driver_call, primary_context
from .interface import Bound, Buffer, DeviceArray, Stream, check_buffers, ordinal_of
from .tensorrt_library import DTYPES, TrtLibrary, TrtLog, fits
from .trust import seal, unseal

MAX_KERNELS_BYTES = 2**30
# New kernels are stored after this many uncaptured runs: TensorRT-RTX compiles in the first.
COMPILING_RUNS = 2


class Scratch:
    """One block of device memory for engines that never run at the same time.

    The block grows as engines join, before any of them is captured.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memory: Handle | None = None
        self._nbytes = 0
        self._users: list[Any] = []

    def join(self, execution: Any, nbytes: int) -> None:
        """Gives an execution context its scratch memory.

        Raises:
            CudaError: It does not fit on the device.
        """
        self._users.append(execution)
        if nbytes <= self._nbytes and self._memory is not None:
            execution.set_device_memory(self._memory.value, self._nbytes)
            return
        larger = Handle(self._context, "cuMemAlloc", max(1, nbytes), freed_by="cuMemFree")
        for user in self._users:
            user.set_device_memory(larger.value, nbytes)
        self._memory, self._nbytes = larger, nbytes


class TrtEngine:
    """One graph as a plan with its execution context.

    The bounds of one engine share its scratch memory: enqueue them on one stream.
    """

    def __init__(
        self,
        library: TrtLibrary,
        plan: Path,
        spec: GraphSpec,
        device: str = "cuda",
        scratch: Scratch | None = None,
    ) -> None:
        """Loads a plan on a GPU: "cuda", "cuda:1".

        Args:
            scratch: Shared with engines that never run at the same time; None uses its own.

        Raises:
            StreamDiffVSRError: It cannot be loaded here, or is not the spec's.
        """
        # They are destroyed in this order: the context first, the runtime after its engine.
        self._context: Any = None
        self._kernels: _KernelCache | None = None
        self._engine: Any = None
        self._runtime: Any = None
        self._library, self._spec, self._log = library, spec, TrtLog(library)
        self._cuda, self._scratch = primary_context(ordinal_of(device)), scratch
        try:
            data = plan.read_bytes()
        except OSError as error:
            raise StreamDiffVSRError(f"cannot read {plan}", error.strerror or str(error)) from None
        with capture_lock, self._cuda.current():
            self._runtime = library.module.Runtime(self._log.handle)
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                raise StreamDiffVSRError(
                    f"{library.title} cannot load {plan.name}",
                    self._log.reason(),
                    "see streamdiffvsr doctor for the GPU and its driver, or rebuild the engines",
                )
            self._check_tensors(plan)
            self._kernels = _KernelCache(self._engine, plan.with_suffix(".kernels"))
            self._context = self._make_context(self._kernels.config, scratch)

    def describe(self) -> GraphSpec:
        """Returns the names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """Returns the plan on these device buffers, which stay alive as long as the result does."""
        check_buffers(self._spec, buffers)
        addresses: dict[str, int] = {}
        for name, buffer in buffers.items():
            if not isinstance(buffer, DeviceArray):
                raise ValueError(f"{self._spec.name}.{name} needs a buffer on the device")
            addresses[name] = buffer.address
        return _BoundPlan(self, addresses, tuple(buffers.values()))

    def launch(self, addresses: Mapping[str, int], stream: int) -> None:
        """Puts one run on a CUDA stream; used through `bind`.

        Raises:
            StreamDiffVSRError: The library refused a buffer or the launch.
        """
        with self._cuda.current():
            self._set(addresses)
            if not self._context.execute_async_v3(stream):
                self._refused("does not run")
            # Only uncaptured runs compile.
            if (
                self._kernels
                and self._kernels.wanted
                and not int(driver_call("cuStreamIsCapturing", stream))
            ):
                self._kernels.keep()

    def why_not_captured(self, addresses: Mapping[str, int], stream: int) -> str:
        """Returns why the library does not allow a run on a stream to be captured, or ""."""
        asked = getattr(self._context, "is_stream_capturable", None)
        if asked is None:
            return ""  # TensorRT, whose plans can be captured
        with self._cuda.current():
            self._set(addresses)
            capturable = asked(stream)
        return (
            "" if capturable else f"{self._library.title} says {self._spec.name} cannot be captured"
        )

    def run(self, addresses: Mapping[str, int]) -> None:
        """Runs once on a new stream, to the end."""
        stream = CudaStream(self._cuda)
        self.launch(addresses, stream.handle)
        stream.synchronize()

    def _set(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                self._refused(f"takes no buffer for {name}")

    def _refused(self, what: str) -> None:
        raise StreamDiffVSRError(f"the {self._spec.name} engine {what}", self._log.reason())

    def _check_tensors(self, plan: Path) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = [
            TensorSpec(
                name,
                tuple(int(side) for side in engine.get_tensor_shape(name)),
                DTYPES.get(engine.get_tensor_dtype(name).name, "unknown"),
            )
            for name in names
        ]
        wanted = {t.name: t for t in (*self._spec.inputs, *self._spec.outputs)}
        wrong = wanted.keys() ^ set(names)
        wrong |= {t.name for t in found if t.name not in wrong and not fits(t, wanted[t.name])}
        if wrong:
            raise StreamDiffVSRError(
                f"{plan.name} is not the graph that its manifest describes",
                f"it differs in {', '.join(sorted(wrong))}",
                "rebuild the engines",
            )

    def _make_context(self, config: Any, scratch: Scratch | None) -> Any:
        if scratch is not None:
            strategies = self._library.module.ExecutionContextAllocationStrategy
            config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
        context = self._engine.create_execution_context(config)
        if context is None:
            raise StreamDiffVSRError(
                f"the {self._spec.name} engine cannot be started",
                self._log.reason(),
                f"free GPU memory, or use {option('tile')} or a smaller input",
            )
        for tensor in self._spec.inputs:
            if -1 in tuple(self._engine.get_tensor_shape(tensor.name)):
                context.set_input_shape(tensor.name, tensor.shape)
        if scratch is not None:
            scratch.join(context, int(self._engine.device_memory_size_v2))
        return context


class _KernelCache:
    """The kernels that TensorRT-RTX compiles for this very GPU, kept in a file next to the plan.

    Attributes:
        config: The execution context's configuration; it and the cache live as long as the engine.
        wanted: Whether more kernels may have been compiled since the last `keep`.
    """

    def __init__(self, engine: Any, path: Path) -> None:
        self.config = engine.create_runtime_config()
        self._path, self._runs = path, 0
        self._cache = None
        if hasattr(self.config, "create_runtime_cache"):
            self._cache = self.config.create_runtime_cache()
            known = _read_sealed(path)
            if known and not self._cache.deserialize(known):
                known = b""  # from another GPU, driver or version: compiled again
            self._digest = hashlib.sha256(known).digest()
            self.config.set_runtime_cache(self._cache)
        self.wanted = self._cache is not None

    def keep(self) -> None:
        """Stores newly compiled kernels, after each of the first runs."""
        self._runs += 1
        self.wanted = self._runs < COMPILING_RUNS
        content = None if self._cache is None else self._cache.serialize()
        if content is not None and hashlib.sha256(content).digest() != self._digest:
            self._digest = hashlib.sha256(content).digest()
            _write_sealed(self._path, content)


@dataclass(frozen=True, slots=True)
class _BoundPlan:
    """An engine with its buffers."""

    engine: TrtEngine
    addresses: Mapping[str, int]
    buffers: tuple[Buffer, ...]  # kept alive: the context has only their addresses

    def why_not_captured(self, stream: Stream) -> str:
        return self.engine.why_not_captured(self.addresses, stream.handle)

    def enqueue(self, stream: Stream | None = None) -> None:
        if stream is None:
            self.engine.run(self.addresses)
        else:
            self.engine.launch(self.addresses, stream.handle)


def _read_sealed(path: Path) -> bytes:
    """Returns what `_write_sealed` wrote for this user; nothing if the file is incomplete."""
    try:
        return unseal(path.name, read_small(path, MAX_KERNELS_BYTES, follow=False))
    except (OSError, ValueError):
        return b""


def _write_sealed(path: Path, content: Any) -> None:
    """Stores kernels next to their plan; if they cannot be written, they are compiled each time."""
    with contextlib.suppress(OSError, StreamDiffVSRError), write_atomically(path) as part:
        part.write_bytes(seal(path.name, bytes(content)))
