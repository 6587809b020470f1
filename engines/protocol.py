"""What every backend's engine can do: bind buffers, enqueue on a stream, describe.

A buffer is memory of a fixed address that the caller owns: a numpy array on the host, a
`DeviceArray` on a GPU. Binding is done once; what is bound is enqueued once a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..spec import GraphSpec
from .device import Stream

HostArray: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A dense tensor in a device's memory.

    Attributes:
        address: Where it begins, as the device's pointer.
        owner: Keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(repr=False)


Buffer: TypeAlias = HostArray | DeviceArray


class Bound(Protocol):
    """An engine with its buffers, ready to be run as often as wanted.

    The buffers stay the caller's: what they hold when the stream gets there is what is read.
    """

    def why_not_captured(self, stream: Stream) -> str:
        """Why a run on `stream` cannot be made part of a launch, or an empty string."""
        ...

    def enqueue(self, stream: Stream | None = None) -> None:
        """Run once, in order on `stream`, without waiting for it; None runs and waits.

        Raises:
            StreamDiffVSRError: The backend refused the launch, with what it said.
        """
        ...


@dataclass(frozen=True, slots=True)
class HostBound:
    """An engine that the host runs: at once, or when its turn on a stream comes.

    Attributes:
        run: Runs it to its end; keeps its buffers alive.
    """

    run: Callable[[], None]

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`."""
        return ""

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        if stream is None:
            self.run()
        else:
            stream.call(self.run)


class Engine(Protocol):
    """One graph, made ready to run by a backend."""

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        ...

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The engine on these buffers, one for every tensor by name. Several may coexist.

        Raises:
            ValueError: A tensor is missing or unknown, or a buffer has another shape or dtype than
                its tensor, or is not dense.
        """
        ...


def check_buffers(spec: GraphSpec, buffers: Mapping[str, Buffer]) -> None:
    """Raise ValueError unless there is a fitting buffer for every tensor, and no other."""
    tensors = {t.name: t for t in (*spec.inputs, *spec.outputs)}
    for name, buffer in buffers.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ValueError(f"{spec.name} has no tensor {name!r}, only {', '.join(tensors)}")
        if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            raise ValueError(
                f"{spec.name}.{name} takes {tensor.dtype} {tensor.shape}, "
                f"got {buffer.dtype} {buffer.shape}"
            )
        if isinstance(buffer, np.ndarray) and not buffer.flags.c_contiguous:
            raise ValueError(f"{spec.name}.{name} needs a dense buffer, got strides")
    if missing := tensors.keys() - buffers.keys():
        raise ValueError(f"{spec.name} has no buffer for {', '.join(sorted(missing))}")
