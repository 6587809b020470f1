"""What every backend's engine can do: bind buffers, enqueue, describe.

A buffer is memory of a fixed address that the caller owns. On the CPU it is a numpy array; there a
stream is None and `enqueue` returns when the outputs are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from ..spec import GraphSpec

Buffer: TypeAlias = npt.NDArray[Any]
Stream: TypeAlias = None


class Engine(Protocol):
    """One graph, ready to run."""

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        ...

    def bind(self, buffers: Mapping[str, Buffer]) -> None:
        """Use these buffers from now on, by tensor name; tensors not named keep theirs.

        Raises:
            ValueError: A buffer has another shape or dtype than the tensor, or is not dense.
        """
        ...

    def enqueue(self, stream: Stream = None) -> None:
        """Run once on the bound buffers, in order on `stream`."""
        ...


def check_buffers(spec: GraphSpec, buffers: Mapping[str, Buffer]) -> None:
    """Raise ValueError unless every buffer fits the tensor of its name."""
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
        if not buffer.flags.c_contiguous:
            raise ValueError(f"{spec.name}.{name} needs a dense buffer, got strides")
