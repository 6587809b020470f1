"""Provides engines for a frame size: found in the user's cache, or built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.host import why_no_gpu
from ..engines.interface import kind_of, ordinal_of
from ..engines.registry import BACKENDS
from ..errors import StreamDiffVSRError, command, option
from ..graphs.spec import Size, check_size
from .builder import build_set, check_buildable, find_set
from .request import AUTO, BuildRequest

if TYPE_CHECKING:
    from ..engines.registry import Choice

Log = Callable[[str], None]


class EngineProvider:
    """The engine sets of one request.

    Backend, precision and device, where left open, are chosen for this machine when first needed.

    Args:
        request: The engines that are wanted.
        log: Receives a line if the model `auto` has become the built-in one.
    """

    def __init__(self, request: BuildRequest, log: Log = lambda _: None) -> None:
        self._asked, self._log = request, log

    @cached_property
    def choice(self) -> Choice:
        """The backend, precision and device; errors are those of `BuildRequest.choice`."""
        return self._asked.choice()

    @property
    def request(self) -> BuildRequest:
        """The request with the backend, precision and device named."""
        return self._asked.settled(self.choice) if self._asked.is_open else self._asked

    @property
    def run_on(self) -> str | None:
        """The device that was asked for, as `streamdiffvsr.load` takes it."""
        return self._asked.run_on

    def find(self, size: Size) -> Path | None:
        """Returns the set for frames of a size (h, w) if the cache has a complete, current one.

        Returns None while the model is `auto`, as choosing its weights may need a network.
        """
        return None if self._asked.model == AUTO else find_set(self.request, size)

    def check_buildable(self, size: Size) -> None:
        """Raises `StreamDiffVSRError` if the set for a size (h, w) could not be built here."""
        if self._asked.model != AUTO:
            check_buildable(self.request, size)

    def get(
        self, size: Size, progress: Log = lambda _: None, *, out: str | Path | None = None
    ) -> Path:
        """Returns the folder of the set for frames of a size (h, w), found or built.

        Args:
            progress: Receives a line whenever a step begins; the first names the backend that was
                chosen, if that was left open.
            out: The folder of the set; by default one in the user's cache.

        Raises:
            StreamDiffVSRError: One line: what could not be done, why, what to do.
        """
        first = [self.choice.describe()] if self._asked.backend == AUTO else []
        request = self.request
        check_size(size)
        if request.model == AUTO:
            from ..export.model_source import released_or_built_in

            model = released_or_built_in(self._log)
            self._asked, request = replace(self._asked, model=model), replace(request, model=model)

        def report(line: str) -> None:
            while first:
                progress(first.pop())
            progress(line)

        return build_set(request, size, out=out, progress=report)

    def variant(self, **changes: Any) -> EngineProvider:
        """Returns a provider of the same request with some fields changed."""
        return EngineProvider(replace(self.request, **changes), self._log)

    def check_runs_here(self) -> None:
        """Raises `StreamDiffVSRError` if such engines could not run on this machine."""
        backend, device = self.choice.backend, self.choice.device
        if kind_of(device) == "cuda" and (obstacle := why_no_gpu(ordinal_of(device))):
            on_cpu = "cpu" in BACKENDS[backend].devices
            here = option("device", "cpu") if on_cpu else option("backend", "onnxruntime")
            raise StreamDiffVSRError(
                f"engines of {backend} for a GPU cannot run here",
                obstacle,
                f"use {here}, or build them for another machine: {command('engines')}",
            )
