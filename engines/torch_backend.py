"""Runs exported torch programs on a CPU or a GPU."""

from __future__ import annotations

import contextlib
import gc
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StreamDiffVSRError, option
from ..graphs.program import GETITEM, PROGRAM, Program, program_file
from ..graphs.spec import GraphSpec
from .cuda_driver import capture_lock, no_collection
from .host import why_no_gpu
from .interface import Bound, Buffer, DeviceArray, HostBound, Stream, check_buffers, ordinal_of
from .manifest import EngineKey

Module = Callable[..., tuple[Any, ...]]  # tensors in, tensors out, both in the order of the spec
ATEN = "aten"
NAMES = ("dtype", "layout", "memory_format")  # the kinds of torch's own values


def read_module(path: Path, spec: GraphSpec, device: str) -> Module:
    """Reads a graph's program, with its constants on a torch device: "cpu", "cuda:0".

    Raises:
        StreamDiffVSRError: The file is not a program, or not the spec's.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device) as file:
            program = Program.from_json(file.metadata()[PROGRAM])
            constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module = torch.fx.GraphModule(*_linked(program, _channels_last(constants, device), device))
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StreamDiffVSRError(
            f"torch cannot load {path.name}",
            f"{type(error).__name__}: {error}",
            "rebuild the engines",
        ) from error
    found = (len(program.inputs), len(program.outputs))
    if found != (wanted := (len(spec.inputs), len(spec.outputs))):
        raise StreamDiffVSRError(
            f"{path.name} is not the graph that its manifest describes",
            f"it has {found} inputs and outputs, not {wanted}",
            "rebuild the engines",
        )
    return module


def _channels_last(constants: dict[str, Any], device: str) -> dict[str, Any]:
    """Returns the constants with convolution weights in a GPU's layout; activations follow.

    On a CPU that speeds up the decoder (by a fifth) but not the denoiser, which is most of a frame.
    """
    import torch

    if device == "cpu":
        return constants
    last = torch.channels_last
    return {k: v.to(memory_format=last) if v.ndim == 4 else v for k, v in constants.items()}


def _linked(program: Program, constants: Mapping[str, Any], device: str) -> tuple[Any, Any]:
    """Returns (attributes by name, FX graph), from which a GraphModule is made."""
    import torch

    graph = torch.fx.Graph()
    names = {name: f"constant_{i}" for i, name in enumerate(constants)}
    values = {name: graph.placeholder(name) for name in program.inputs}

    def decoded(argument: Any) -> Any:
        if isinstance(argument, list):
            return [decoded(one) for one in argument]
        if not isinstance(argument, dict):
            return argument
        ((word, name),) = argument.items()
        if word == "value":
            return values[name]
        if word == "constant":
            return graph.get_attr(names[name])
        if word == "device":
            return torch.device(device)
        named = getattr(torch, name, None)
        if type(named).__name__ != word or word not in NAMES:
            raise ValueError(f"{word} {name} is not an argument")
        return named

    for call in program.calls:
        arguments = tuple(decoded(one) for one in call.arguments)
        keywords = {key: decoded(one) for key, one in call.keywords.items()}
        values[call.result] = graph.call_function(_operator(call.operator), arguments, keywords)
    graph.output(tuple(decoded(one) for one in program.outputs))
    return {names[name]: value for name, value in constants.items()}, graph


def _operator(name: str) -> Callable[..., Any]:
    import torch

    if name == GETITEM:
        return operator.getitem
    library, *rest = name.split(".")
    if library != ATEN or len(rest) != 2:
        raise ValueError(f"{name} is not an operator of torch")
    aten: Any = torch.ops.aten
    found: Any = reduce(getattr, rest, aten)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{name} is not an operator of torch")
    return found


TRIES = 2  # another thread's wait for the device can break a capture
Refusals = Callable[[], contextlib.AbstractContextManager[None]]


class Launches:
    """Runs one engine's module for its bounds.

    The bounds share one pool of scratch memory, which is safe as long as they run one after
    another.

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
        """Returns a CUDA graph of one run, or None if torch cannot capture one.

        Raises:
            torch.OutOfMemoryError: The run does not fit.
        """
        import torch

        if not self._tries:  # a capture that fails can leave its memory behind
            return None
        # torch waits for the whole device before it captures, which breaks any other capture. And a
        # failed capture leaves torch's side stream current: the outer device and stream contexts
        # restore the previous ones.
        with capture_lock, no_collection(), torch.cuda.device(self.device), _own_stream():
            if not self._warm:
                gc.collect()  # now, because nothing is collected during the capture
                self._run_once(inputs)
            graph = torch.cuda.CUDAGraph()
            mode = "thread_local"  # other threads may allocate while this one captures
            try:
                with torch.cuda.graph(graph, self._pool, self._side, capture_error_mode=mode):
                    self.run(inputs, outputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operator waits for the device: it runs uncaptured
                self._tries -= 1
                return None
            return graph

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Puts one run on torch's current stream, operator by operator."""
        import torch

        with torch.inference_mode(), exact_kernels():
            for target, result in zip(outputs, self._module(*inputs), strict=True):
                target.copy_(result)

    def _run_once(self, inputs: Sequence[Any]) -> None:
        """Runs once so that the libraries initialise themselves, which must not be captured."""
        import torch

        with torch.inference_mode(), exact_kernels(), torch.cuda.stream(self._side):
            self._side.wait_stream(torch.cuda.default_stream())  # until the weights are there
            self._module(*inputs)
        self._side.synchronize()
        self._warm = True


class BoundOnDevice:
    """A module with the tensors of one set of device buffers."""

    def __init__(
        self,
        launches: Launches,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        refused: Refusals,
    ) -> None:
        """Captures the module on these buffers.

        Args:
            refused: Turns torch's errors in its body into one line.
        """
        self._launches, self._refused = launches, refused
        self._inputs = _viewed(inputs, launches.device)
        self._outputs = _viewed(outputs, launches.device)
        self._graph = launches.capture(self._inputs, self._outputs)

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`: CUDA launches no graph into a stream that is being captured."""
        if self._graph is not None:
            return "torch's engines are CUDA graphs already, each launched by itself"
        return "torch could not capture an operator of it"

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        import torch

        device = self._launches.device
        with self._refused(), torch.cuda.device(device):
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
    """Returns a context that restores torch's current stream at its end."""
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
    """Returns tensors over device buffers, without a copy."""
    import torch

    if not all(isinstance(buffer, DeviceArray) for buffer in buffers):
        raise ValueError("an engine on a GPU needs buffers on the device")
    exposed = [_Exposed(buffer) for buffer in buffers if isinstance(buffer, DeviceArray)]
    return [torch.as_tensor(one, device=device) for one in exposed]


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Disables TF32 and kernels that add in a varying order, in spite of the process's settings.

    TF32 would change fp32 results by 1e-3, and the frames would differ from run to run. These are
    settings of the whole process: those that are exact already are not changed.
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


def torch_version() -> str:
    """Returns the installed release, without the plus sign and the build's device after it."""
    return version("torch").partition("+")[0]


def torch_obstacle(key: EngineKey, device: str) -> str:
    """Returns why programs of this key cannot run on a device of this machine, or ""."""
    if key.library != torch_version():
        return f"it was exported with torch {key.library}, installed is {torch_version()}"
    if key.device == "cuda":
        import torch

        if obstacle := why_no_gpu(ordinal_of(device)):
            return obstacle
        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no GPU"
    return ""


def unavailable(device: str) -> str:
    """Returns why the installed torch cannot be used on a device of this machine, or ""."""
    if device == "cpu":
        return ""
    try:
        import torch
    except Exception as error:
        return f"it does not load ({type(error).__name__})"
    if not torch.cuda.is_available():
        return "this build of it finds no CUDA"
    ordinal, count = ordinal_of(device), torch.cuda.device_count()
    return "" if ordinal < count else f"it finds no cuda:{ordinal}, but {count}"


def open_engine(folder: Path, spec: GraphSpec, device: str, scratch: object) -> TorchEngine:
    """Opens a graph's program; torch manages scratch memory itself."""
    return TorchEngine(folder, spec, device)


class TorchEngine:
    """One graph as a program.

    On a GPU its bounds share their scratch memory: enqueue them on one stream.
    """

    def __init__(self, folder: Path, spec: GraphSpec, device: str = "cpu") -> None:
        """Loads the graph's program for `device`: "cpu", "cuda", "cuda:1".

        Raises:
            StreamDiffVSRError: It cannot be loaded, does not fit in memory, or is not the spec's.
        """
        self._spec = spec
        # By its number: torch's own "cuda" is the device that is current in a thread.
        place = device if device == "cpu" else f"cuda:{ordinal_of(device)}"
        with refusals(spec.name), capture_lock:
            self._module = read_module(folder / program_file(spec.name), spec, place)
            self._launches = None if device == "cpu" else Launches(self._module, place)

    def describe(self) -> GraphSpec:
        """Returns the names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """Returns the program on these buffers, which are kept alive as long as the result is."""
        check_buffers(self._spec, buffers)
        inputs = [buffers[t.name] for t in self._spec.inputs]
        outputs = [buffers[t.name] for t in self._spec.outputs]
        with refusals(self._spec.name):
            if self._launches is not None:
                refused = partial(refusals, self._spec.name)
                return BoundOnDevice(self._launches, inputs, outputs, refused)
            tensors = (_shared(inputs), _shared(outputs))
            return HostBound(partial(_run, self._spec.name, self._module, *tensors))


def _run(name: str, module: Module, inputs: list[Any], outputs: list[Any]) -> None:
    """Runs once, on tensors over the caller's arrays."""
    import torch

    with refusals(name), torch.inference_mode():
        for target, result in zip(outputs, module(*inputs), strict=True):
            target.copy_(result)


def _shared(buffers: list[Buffer]) -> list[Any]:
    """Returns tensors over arrays, without a copy."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array that is not writable; inputs are only read
        return [torch.from_numpy(np.asarray(buffer)) for buffer in buffers]


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turns torch's errors in the body, from loading or running a graph, into one line.

    Raises:
        StreamDiffVSRError: In place of torch's own errors.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StreamDiffVSRError(
            f"the {name} engine does not fit in the GPU's memory",
            _first_line(error),
            f"free GPU memory, or use {option('tile')}, {option('flow_scale', 2)}, "
            f"{option('precision', 'fp16')} or a smaller input",
        ) from error
    except RuntimeError as error:
        raise StreamDiffVSRError(
            f"the {name} engine does not run",
            _first_line(error),
            f"if memory was short, use {option('tile')}, {option('flow_scale', 2)} "
            "or a smaller input",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
