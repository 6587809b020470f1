"""Provides engines for a frame size: found in the user's cache, or built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.host import require_adaptive, why_no_gpu
from ..engines.interface import kind_of, ordinal_of
from ..engines.registry import BACKENDS
from ..errors import StreamDiffVSRError, command, option
from ..graphs.spec import DEFAULT_STEPS, Size, check_size
from .builder import build_set, check_buildable, find_set
from .request import AUTO, BuildRequest

if TYPE_CHECKING:
    from ..engines.registry import Choice
    from ..runtime.adaptive.upscaler import AdaptiveUpscaler, Region

Log = Callable[[str], None]
GPU_BATCH = 4  # tiles in one launch
REFRESH_S = 10.0


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
    def tile_batch(self) -> int:
        """How many tiles of a frame the engines of :meth:`tiles` refine in one launch."""
        on_gpu = kind_of(self.choice.device) == "cuda"
        return GPU_BATCH if on_gpu and self.choice.precision != "fp8" else 1

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

    def tiles(self, progress: Log = lambda _: None) -> Path:
        """Returns the folder of the set that refines tiles of frames of any size, found or built.

        Args:
            progress: Receives a line whenever a step begins.

        Raises:
            StreamDiffVSRError: One line: what could not be done, why, what to do.
        """
        from ..runtime.adaptive.tile_engine import TILE

        # Tiles are whole frames of one size, whose flow is given.
        one = self.variant(
            batch=self.tile_batch, tile=AUTO, profile=None, flow_scale=None, correlation=None
        )
        return one.get((TILE, TILE), progress)

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


def adaptive(
    model: str | Path,
    *,
    size: Size,
    regions: Sequence[Region] = (),
    refresh_s: float = REFRESH_S,
    backend: str = "onnxruntime",
    precision: str | None = None,
    device: str = "cpu",
    steps: int = DEFAULT_STEPS,
    revision: str | None = None,
    color_match: str = "auto",
    progress: Log = lambda _: None,
) -> AdaptiveUpscaler:
    """Returns an upscaler that carries what the model made along with the motion.

    The model refines as many tiles of each frame as the caller allows. One set of engines, for
    tiles of 48x48, serves every size; it is found in the user's cache, or built.

    Args:
        model: `tiny`, the path of a model folder, or a Hugging Face repo id.
        size: LR size (h, w) of the frames.
        regions: Regions of interest (x, y, width, height) in LR pixels, refined first.
        refresh_s: Seconds after which a part of the picture is refined again before all others.
        backend: `onnxruntime`, `tensorrt`, `tensorrt-rtx` or `torch`.
        precision: "fp32", "fp16" or "fp8"; None is fp16 on a GPU, else fp32.
        device: "cpu", "cuda", or the GPU "cuda:1", where tiles are refined four at a time.
        steps: Number of denoising steps, 1 to 50; the released model is trained for 4.
        revision: Branch, tag or commit of the Hugging Face repo.
        color_match: "on": the tiles take over the input's broad colours; "off": they have the
            model's; "auto": as the model's config says.
        progress: Called with one line whenever a step of a build begins.

    Raises:
        UsageError: A region lies outside the frame.
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    require_adaptive()
    from ..runtime.adaptive.tile_engine import load_tile_engine
    from ..runtime.adaptive.upscaler import AdaptiveUpscaler

    request = BuildRequest(
        model=str(model),
        backend=backend,
        precision=precision,
        device=device,
        steps=steps,
        revision=revision,
        color_match=color_match,
    )
    provider = EngineProvider(request)
    engine = load_tile_engine(provider.tiles(progress), provider.run_on)
    return AdaptiveUpscaler(engine, size, regions=regions, refresh_s=refresh_s)
