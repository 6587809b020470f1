"""How far a TensorRT build is, and how it is stopped.

The library calls Python from C++, and an exception that crosses back ends the process. So nothing
is raised inside a callback: the build is told to stop, and what happened is raised after it. A
signal is therefore held back while the library works.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any

from .trt_library import TrtLibrary

Fraction = Callable[[float], None]
SMALLEST_STEP = 0.01
HELD = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Nested phases of a build -> one fraction that only grows, from 0 to 1.

    The library may call from several threads at once: one at a time gets in.

    Attributes:
        handle: The library's progress monitor, for its builder configuration.
    """

    def __init__(self, library: TrtLibrary, report: Fraction, held: list[int]) -> None:
        """`held` is of `signals_held`: a build with a signal waiting is told to stop."""
        self._report, self._held = report, held
        self._phases: dict[str, _Phase] = {}
        self._told = 0.0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self.handle = _monitor(library.module)(self)

    def raise_failure(self) -> None:
        """Raise what `report` has raised during the build, if it has."""
        if self._failure is not None:
            raise self._failure

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, as one step of its parent."""
        with self._guarded():
            self._phases[name] = _Phase(parent, max(1, steps))

    def finish(self, name: str) -> None:
        """A phase is over; its parent counts the step itself."""
        with self._guarded():
            self._phases.pop(name, None)

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done; False asks the library to stop."""
        with self._guarded():
            self._count(name, step)
        return self._failure is None and not self._held

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time; what is raised is kept, as it must not cross C++."""
        with self._lock:
            try:
                yield
            except BaseException as error:
                self._failure = self._failure or error

    def _count(self, name: str, step: int) -> None:
        if name in self._phases:
            self._phases[name].done = step + 1
        fraction = max(
            (self._fraction(n) for n, p in self._phases.items() if not p.parent), default=0
        )
        if self._failure is None and fraction >= self._told + SMALLEST_STEP:
            self._told = fraction
            self._report(fraction)

    def _fraction(self, name: str) -> float:
        phase = self._phases[name]
        inner = max(
            (self._fraction(n) for n, p in self._phases.items() if p.parent == name), default=0
        )
        return min(1.0, (phase.done + inner) / phase.steps)


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Hold Ctrl-C and SIGTERM back: they are listed at once, and delivered when the body is left.

    Python would otherwise raise from the first line of a callback, before any `try` of ours.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held  # signals never reach Python code of other threads
        return

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in HELD}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in held[:1]:
            signal.raise_signal(number)


@cache
def _monitor(module: Any) -> Any:
    """A progress monitor class of this library: its base is the library's own."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # of a library without types
        def __init__(self, progress: BuildProgress) -> None:
            module.IProgressMonitor.__init__(self)
            self._progress = progress

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._progress.start(name, parent, steps)

        def phase_finish(self, name: str) -> None:
            self._progress.finish(name)

        def step_complete(self, name: str, step: int) -> bool:
            return self._progress.step(name, step)

    return Monitor
