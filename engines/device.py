"""Streams and events as CUDA has them, for whichever device.

What is put on a stream runs in order and later; a stream waits for another only through an event.
The runtime is written against this alone, so the very schedule that drives a GPU (`cuda_device`)
runs, and is tested, without one (`cpu_device`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy.typing as npt

from ..errors import UsageError

Work = Callable[[], None]


def ordinal_of(device: str) -> int:
    """Which GPU a device's name means: 0 for "cuda", 1 for "cuda:1".

    Raises:
        UsageError: It is no name of a GPU.
    """
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"unknown device {device!r:.40}", remedy="use cpu, cuda or cuda:1")
    return int(number or 0)


def kind_of(device: str) -> str:
    """ "cpu" or "cuda", of a device's name.

    Raises:
        UsageError: It is no name of a device.
    """
    if device == "cpu":
        return device
    ordinal_of(device)
    return "cuda"


class Event(Protocol):
    """A point in a stream. Recording it again moves it; who waits, waits for the last record."""

    def synchronize(self) -> None:
        """Block the caller until the point is reached; at once if it was never recorded."""
        ...


class Mark(Protocol):
    """When a stream got to a point, once it has."""

    def ms_after(self, earlier: Any) -> float:
        """Milliseconds since an earlier mark of the same device; the host has waited for both."""
        ...


class Stream(Protocol):
    """Work in order."""

    @property
    def handle(self) -> int:
        """The CUDA stream as an integer; 0 on the CPU."""
        ...

    def call(self, work: Work) -> None:
        """Run a host function in its turn (on the CPU, where engines are host functions)."""
        ...

    def record(self, event: Event) -> None:
        """Set the event when all that was put here before is done."""
        ...

    def wait(self, event: Event) -> None:
        """Let what comes after wait for the event's last record before this call."""
        ...

    def check(self) -> None:
        """Raise what a work raised, if one has; what came after it was passed over."""
        ...

    def close(self) -> None:
        """Let all be done, then give the stream back."""
        ...


class Launch(Protocol):
    """Work that was captured."""

    def launch(self, stream: Stream) -> None:
        """Put all of it on a stream, in order with what else is there."""
        ...


class Device(Protocol):
    """Where engines run and their buffers lie."""

    @property
    def name(self) -> str:
        """`cpu`, or `cuda`."""
        ...

    def stream(self, name: str, *, urgent: bool = False) -> Stream:
        """A new stream; the name is what profilers show.

        Args:
            urgent: Its work goes before that of streams that are not, where both are ready.
        """
        ...

    def event(self) -> Event:
        """A new event, not recorded."""
        ...

    def capture(self, streams: Sequence[Stream], work: Work) -> Launch:
        """Make what `work` puts on the streams one launch, in the order that its events say.

        Nothing of it runs now. Launched, all of it comes after what was on the launch's stream
        before, and before what comes later; it waits for nothing else on the other streams.

        Args:
            streams: All that it uses; the one where it begins first.

        Raises:
            Exception: Something in it cannot be captured; the streams are as before.
        """
        ...

    def mark(self, stream: Stream) -> Mark:
        """Note the time when the stream gets here. Not in a capture."""
        ...

    def range(self, name: str, stream: Stream | None = None) -> AbstractContextManager[object]:
        """What is put on streams inside it shows under this name in a profiler.

        Args:
            stream: The one that it is put on, where it is a single one.
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new buffer in the device's memory, zeroed for whatever stream comes to it."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Host memory, zeroed, from and to which copies run beside the device's work."""
        ...

    def copy(self, target: Any, source: Any, stream: Stream | None = None) -> None:
        """Copy a buffer to another of its shape and dtype, in order on `stream`; None waits."""
        ...

    def zero(self, target: Any, stream: Stream) -> None:
        """Fill a buffer with zeros, in order on `stream`."""
        ...
