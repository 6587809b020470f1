"""The torch backend: a graph's operators as torch runs them, on a CPU or a GPU.

On a CPU they are run one by one in the stream's turn; the caller's arrays are read in place and
results copied into them. On a GPU they are captured once and replayed (`torch_cuda.py`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StreamDiffVSRError
from ..program import program_file
from ..spec import GraphSpec
from .cuda_driver import capture_lock
from .device import ordinal_of
from .gpu import why_no_gpu
from .manifest import EngineKey
from .protocol import Bound, Buffer, HostBound, check_buffers
from .torch_cuda import BoundOnDevice, Launches
from .torch_program import Module, read_module


def torch_version() -> str:
    """The installed release; what follows a plus sign says for which device it was built."""
    return version("torch").partition("+")[0]


def torch_obstacle(key: EngineKey, device: str) -> str:
    """Why programs of this key cannot run on a device of this machine, or nothing."""
    if key.library != torch_version():
        return f"its programs are of torch {key.library}, here is {torch_version()}"
    if key.device == "cuda":
        import torch

        if obstacle := why_no_gpu(ordinal_of(device)):
            return obstacle
        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no GPU"
    return ""


class TorchEngine:
    """One graph as a program.

    On a GPU its bounds share their scratch memory: enqueue them on one stream.
    """

    def __init__(self, folder: Path, spec: GraphSpec, device: str = "cpu") -> None:
        """Load the graph's program for `device`: "cpu", "cuda", "cuda:1".

        Raises:
            StreamDiffVSRError: It cannot be loaded, does not fit in memory, or is not the spec's.
        """
        self._spec = spec
        # By its number: torch's own "cuda" is whichever is current in a thread.
        place = device if device == "cpu" else f"cuda:{ordinal_of(device)}"
        with refusals(spec.name), capture_lock:
            self._module = read_module(folder / program_file(spec.name), spec, place)
            self._launches = None if device == "cpu" else Launches(self._module, place)

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The program on these buffers; they are kept alive as long as the result is."""
        check_buffers(self._spec, buffers)
        inputs = [buffers[t.name] for t in self._spec.inputs]
        outputs = [buffers[t.name] for t in self._spec.outputs]
        with refusals(self._spec.name):
            if self._launches is not None:
                told = partial(refusals, self._spec.name)
                return BoundOnDevice(self._launches, inputs, outputs, told)
            tensors = (_shared(inputs), _shared(outputs))
            return HostBound(partial(_run, self._spec.name, self._module, *tensors))


def _run(name: str, module: Module, inputs: list[Any], outputs: list[Any]) -> None:
    """Run once, on tensors over the caller's arrays."""
    import torch

    with refusals(name), torch.inference_mode():
        for target, result in zip(outputs, module(*inputs), strict=True):
            target.copy_(result)


def _shared(buffers: list[Buffer]) -> list[Any]:
    """Tensors over arrays, without a copy."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array that is not writable; inputs are only read
        return [torch.from_numpy(np.asarray(buffer)) for buffer in buffers]


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """What torch says when a graph cannot be loaded or run becomes one line.

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
            "free GPU memory, or use --tile, --flow-scale 2, --precision fp16 or a smaller input",
        ) from error
    except RuntimeError as error:
        raise StreamDiffVSRError(
            f"the {name} engine does not run",
            _first_line(error),
            "if memory was short, use --tile, --flow-scale 2 or a smaller input",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
