"""Engines on the stand-in: each backend's own way of launching, with kernels that hash.

All bytes of an output follow from all bytes of the inputs, through scratch memory: a stage that
comes too early, twice at once, or not at all changes every byte of every later frame.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from streamdiffvsr import StreamState
from streamdiffvsr.building.graph_source import SHIPPED, write_set
from streamdiffvsr.engines.cuda_device import CudaDevice, CudaStream
from streamdiffvsr.engines.cuda_driver import capture_lock, primary_context
from streamdiffvsr.engines.interface import (
    Bound,
    Buffer,
    DeviceArray,
    Engine,
    StagedEngine,
    Stream,
    check_buffers,
)
from streamdiffvsr.engines.manifest import Manifest
from streamdiffvsr.engines.onnxruntime_backend import BoundOnDevice, OrtEngine, SessionStream
from streamdiffvsr.engines.tensorrt_engine import Scratch, TrtEngine
from streamdiffvsr.engines.tensorrt_library import TrtLibrary
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.graphs.library import GraphLibrary, GraphOptions
from streamdiffvsr.graphs.spec import (
    GRAPHS,
    LANES,
    Geometry,
    GraphSet,
    GraphSpec,
    Size,
    onnx_file,
)
from streamdiffvsr.runtime.adaptive.tile_engine import TILE, TileEngine
from streamdiffvsr.runtime.upscaler import Image, Upscaler
from streamdiffvsr.tests.runtime.simulated import DIMS
from streamdiffvsr.tests.standin.library import Standin

SIZE = (32, 32)
Range = tuple[int, int]


@dataclass
class Kernel:
    """A graph as the stand-in runs it."""

    standin: Standin
    spec: GraphSpec

    @property
    def number(self) -> int:
        return GRAPHS.index(self.spec.name)

    def launch(self, stream: int, addresses: Mapping[str, int], scratch: int = 0) -> int:
        """Put one run on a stream; returns CUDA's result."""

        def ranges(tensors: Any) -> list[Range]:
            return [(addresses[t.name], t.nbytes) for t in tensors]

        inputs, outputs = ranges(self.spec.inputs), ranges(self.spec.outputs)
        return self.standin.launch(
            stream, inputs, outputs, engine=self.number, scratch=scratch, salt=self.number
        )

    def must_launch(self, stream: int, addresses: Mapping[str, int]) -> None:
        """Launches, and raises an exception of its own kind on failure, as a library does."""
        if code := self.launch(stream, addresses):
            raise RuntimeError(f"CUDA error {code}: {self.standin.last_illegal()}")


def addresses_of(buffers: Mapping[str, Buffer]) -> dict[str, int]:
    return {n: cast(DeviceArray, buffer).address for n, buffer in buffers.items()}


# ONNX Runtime: a session on a stream of its own, tied to the caller's by events.


@dataclass
class Session:
    kernel: Kernel
    own: SessionStream

    def run_with_iobinding(self, binding: Mapping[str, int], options: object) -> None:
        self.kernel.must_launch(self.own.stream.handle, binding)


class SessionEngine:
    def __init__(self, kernel: Kernel, device: int, uncaptured: str = "") -> None:
        self._own = SessionStream(primary_context(device))
        self._session = Session(kernel, self._own)
        self._spec, self._uncaptured = kernel.spec, uncaptured

    def describe(self) -> GraphSpec:
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        check_buffers(self._spec, buffers)
        kept = tuple(buffers.values())
        binding = addresses_of(buffers)
        return BoundOnDevice(self._session, binding, None, self._own, kept, self._uncaptured)


# torch: a graph of its own for each bound, launched as it is.


class GraphEngine:
    def __init__(self, kernel: Kernel, device: int) -> None:
        self.kernel, self.device = kernel, CudaDevice(device)
        self.side = CudaStream(self.device.context)

    def describe(self) -> GraphSpec:
        return self.kernel.spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        check_buffers(self.kernel.spec, buffers)
        addresses = addresses_of(buffers)
        with capture_lock:
            self.device.context.call("cuCtxSynchronize")  # as torch does before it captures
            work = lambda: self.kernel.must_launch(self.side.handle, addresses)  # noqa: E731
            launch = self.device.capture([self.side], work)
        return BoundGraph(launch.launch, self.side, tuple(buffers.values()))


@dataclass
class BoundGraph:
    launch: Callable[[Stream], None]
    side: CudaStream
    buffers: tuple[Buffer, ...]

    def why_not_captured(self, stream: Stream) -> str:
        return "it is a graph already"

    def enqueue(self, stream: Stream | None = None) -> None:
        self.launch(stream or self.side)
        if stream is None:
            self.side.synchronize()


# TensorRT: the engine of the project, over as much of the library's API as it calls.


@dataclass(eq=False)
class Library:
    """Stands in for `tensorrt_rtx`, and notes what it was asked."""

    kernels: dict[bytes, Kernel]
    capturable: bool = True
    asked: list[str] = field(default_factory=list)
    contexts: list[Execution] = field(default_factory=list)
    compiled: bytes = b"compiled kernels"

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    class ILogger:
        def __init__(self) -> None:
            pass

    def Runtime(self, logger: object) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, plan: bytes) -> Any:
        spec = self.kernels[plan].spec
        tensors = {t.name: t for t in (*spec.inputs, *spec.outputs)}
        names = {"float32": "FLOAT", "uint8": "UINT8", "int32": "INT32"}
        return SimpleNamespace(
            num_io_tensors=len(tensors),
            get_tensor_name=lambda i: list(tensors)[i],
            get_tensor_shape=lambda name: tensors[name].shape,
            get_tensor_dtype=lambda name: SimpleNamespace(name=names[tensors[name].dtype]),
            create_runtime_config=lambda: Config(self),
            create_execution_context=lambda config: self._context(plan, config),
            device_memory_size_v2=64 + 16 * self.kernels[plan].number,
        )

    def _context(self, plan: bytes, config: Config) -> Execution:
        self.contexts.append(Execution(self, self.kernels[plan], config))
        return self.contexts[-1]


@dataclass
class Config:
    library: Library
    strategy: str = "static"
    cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        def deserialize(known: bytes) -> bool:
            self.library.asked.append(f"known {known!r}")
            return known == self.library.compiled

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: self.library.compiled)

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


@dataclass
class Execution:
    library: Library
    kernel: Kernel
    config: Config
    memory: tuple[int, int] = (0, 0)
    addresses: dict[str, int] = field(default_factory=dict)

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert self.config.strategy == "user managed"
        self.memory = address, nbytes

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        return self.kernel.launch(stream, self.addresses, self.memory[0]) == 0

    def is_stream_capturable(self, stream: int) -> bool:
        self.library.asked.append(f"capturable {self.kernel.spec.name}")
        return self.library.capturable


def plan_engines(
    kernels: Mapping[str, Kernel], device: int, folder: Path, library: Library | None = None
) -> dict[str, Engine]:
    """Engines as `open_engines` makes them: those of a lane share their scratch memory."""
    module = library or Library({})
    module.kernels |= {name.encode(): kernel for name, kernel in kernels.items()}
    trt = TrtLibrary(module, "TensorRT-RTX", "1.7")
    engines: dict[str, Engine] = {}
    for lane in LANES:
        scratch = Scratch(primary_context(device))
        for name in lane:
            plan = folder / f"{name}.plan"
            plan.write_bytes(name.encode())
            where = f"cuda:{device}"
            engines[name] = TrtEngine(trt, plan, kernels[name].spec, where, scratch)
    return engines


# A graph's own numbers: ONNX Runtime's CPU computes them when the stream comes to it.

HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class NumericEngine:
    """A graph of the built-in model, on the stand-in's memory."""

    def __init__(self, engine: Engine, device: int = 0) -> None:
        self._engine, self._context = engine, primary_context(device)
        self._driver = ctypes.CDLL("libcuda.so.1")  # not the bindings, whose callback takes a lock

    def describe(self) -> GraphSpec:
        return self._engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        bound = self._engine.bind({name: _host_view(buffer) for name, buffer in buffers.items()})
        function = HostFunction(lambda _: bound.enqueue())
        return BoundNumeric(self._launch, function, tuple(buffers.values()))

    def _launch(self, function: object, stream: Stream) -> None:
        with self._context.current():
            code = self._driver.cuLaunchHostFunc(ctypes.c_void_p(stream.handle), function, None)
        assert code == 0, code


@dataclass
class BoundNumeric:
    launch: Callable[[object, Stream], None]
    function: object
    buffers: tuple[Buffer, ...]

    def why_not_captured(self, stream: Stream) -> str:
        return ""

    def enqueue(self, stream: Stream | None = None) -> None:
        assert stream is not None
        self.launch(self.function, stream)


def _host_view(buffer: Buffer) -> Any:
    """A buffer's memory as an array: the stand-in's is the host's."""
    array = cast(DeviceArray, buffer)
    nbytes = prod(array.shape) * array.dtype.itemsize
    block = (ctypes.c_ubyte * nbytes).from_address(array.address)
    return np.frombuffer(block, array.dtype).reshape(array.shape)


def tile_engine(folder: Path, batch: int, device: CudaDevice | None = None) -> TileEngine:
    """The built-in model's engines of tiles, made into an empty folder; None is the CPU."""
    library = GraphLibrary.read(SHIPPED, model_digest(BUILT_IN_FOLDER))
    assert library is not None
    options = GraphOptions("fp32", 4, 1, "all-pairs")
    sources = {name: SHIPPED / file for name, file in options.files().items()}
    geometry = Geometry((TILE, TILE), batch=batch)
    graphs = write_set(library, sources, options, geometry, folder)
    engines: dict[str, Engine] = {}
    for name, spec in graphs.specs().items():
        engine = OrtEngine(folder / onnx_file(name), spec)
        engines[name] = engine if device is None else NumericEngine(engine)
    manifest = cast(Manifest, SimpleNamespace(graphs=graphs))
    return TileEngine(manifest, engines, device)


def kernels_of(standin: Standin, geometry: Geometry) -> tuple[Manifest, dict[str, Kernel]]:
    graphs = GraphSet(geometry, "fp32", DIMS, 4, "all-pairs", "0" * 64, {})
    manifest = cast(Manifest, SimpleNamespace(graphs=graphs))  # all that an Upscaler reads of one
    return manifest, {name: Kernel(standin, spec) for name, spec in graphs.specs().items()}


def make_upscaler(
    standin: Standin,
    kind: str,
    folder: Path,
    *,
    device: int = 0,
    size: Size = SIZE,
    tile: Size | None = None,
) -> Upscaler:
    """An Upscaler on a GPU.

    Args:
        kind: How its engines launch: "plans", "sessions" or "graphs".
    """
    manifest, kernels = kernels_of(standin, Geometry(size, tile=tile))
    if kind == "plans":
        engines = plan_engines(kernels, device, folder)
    elif kind == "sessions":
        engines = {n: SessionEngine(kernel, device) for n, kernel in kernels.items()}
    else:
        engines = {n: GraphEngine(kernel, device) for n, kernel in kernels.items()}
    return Upscaler(manifest, engines, CudaDevice(device))


@dataclass
class WaitedEngine:
    """Runs a kernel with all work done before and after it: right in any order."""

    kernel: Kernel

    def describe(self) -> GraphSpec:
        return self.kernel.spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        return cast(Bound, SimpleNamespace(enqueue=lambda: self._run(addresses_of(buffers))))

    def _run(self, addresses: Mapping[str, int]) -> None:
        context = primary_context(0)
        self.kernel.standin.finish()
        with context.current():
            self.kernel.must_launch(0, addresses)
        self.kernel.standin.finish()


def expected_frames(
    standin: Standin,
    frames: list[Image],
    state: StreamState,
    *,
    beginnings: tuple[int, ...] = (),
    size: Size = SIZE,
    tile: Size | None = None,
) -> tuple[list[Image], StreamState]:
    """Returns the frames of the plain loop: one stage after another, each waited for."""
    manifest, kernels = kernels_of(standin, Geometry(size, tile=tile))
    device = CudaDevice()
    engines = {n: StagedEngine(device, WaitedEngine(k)) for n, k in kernels.items()}
    plain, outputs = Upscaler(manifest, engines), []
    for index, frame in enumerate(frames):
        out, state = plain.step(frame, state.reset() if index in beginnings else state)
        outputs.append(out)
    return outputs, state


def some_frames(count: int, size: Size = SIZE) -> list[Image]:
    """Frames of noise, the same every time."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


FRAMES = some_frames(10)
START = StreamState(seed=3)


def different(got: list[Image], expected: list[Image]) -> list[int]:
    """The numbers of the frames that differ."""
    pairs = zip(got, expected, strict=True)
    return [index for index, (a, b) in enumerate(pairs) if not np.array_equal(a, b)]


def steps(up: Upscaler, frames: list[Image], state: StreamState) -> tuple[list[Image], StreamState]:
    outputs = []
    for frame in frames:
        out, state = up.step(frame, state)
        outputs.append(out)
    return outputs, state
