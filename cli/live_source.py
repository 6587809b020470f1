"""Defines the options of a live source, and says why one gives no frames, or no useful ones."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..building.request import BUILT_IN
from ..engines.host import cuda_gpu
from ..engines.interface import kind_of
from ..errors import StreamDiffVSRError
from ..graphs.spec import SCALE, Size, format_size
from ..runtime.live.mode import EXACT
from . import options as opt

if TYPE_CHECKING:
    from ..building.provider import EngineProvider
    from ..runtime.live.running import Ended

RtspTransport = Annotated[
    str,
    typer.Option(
        "--rtsp-transport",
        metavar="T",
        help="Transport of RTSP, for the source and for --to: tcp, udp, or auto, which takes TCP "
        "and, where a server refuses that, UDP.",
    ),
]
OpenTimeout = Annotated[
    float | None,
    typer.Option(
        "--open-timeout",
        metavar="S",
        min=0.1,
        help="Try again if opening the source takes longer than S seconds."
        + opt.default("10; 20 for HLS"),
    ),
]
StallTimeout = Annotated[
    float | None,
    typer.Option(
        "--stall-timeout",
        metavar="S",
        min=0.1,
        help="Open the source again if nothing comes for S seconds."
        + opt.default("2, or the time of four frames of a slower source"),
    ),
]

# For a pixel of an output frame, on two cores: moved along, refined in part, and encoded.
_PIXEL_NS = 50
_MOST_CORES = 8  # that one frame makes use of
_USELESS_S = 1.0  # a frame
_TILES = "48x48"  # the size of the engines that refine tiles


class SizeAdvice:
    """Warns once if frames of the source are too large for this machine to keep up.

    Args:
        device: The device that was asked for; None for the best one.
        tell: Receives the warning.
    """

    def __init__(self, device: str | None, tell: Callable[[str], None]) -> None:
        self._device, self._tell = device, tell
        self._judged = ""

    def look(self, status: dict[str, Any]) -> None:
        """Judges the size of the source's frames, at the first of them and when it changes."""
        size = status["source"]["size"]
        if not size or size == self._judged:
            return
        self._judged = size
        width, height = map(int, size.split("x"))
        seconds = expected_s((height, width), os.cpu_count() or 1)
        if seconds < _USELESS_S or self._on_gpu():
            return
        large = format_size((SCALE * height, SCALE * width))
        self._tell(
            f"frames of {size} are too large for this CPU: each is made {large}, which takes about "
            f"{seconds:.0f} s; use a smaller stream of the source (a camera's sub-stream), or a GPU"
        )

    def _on_gpu(self) -> bool:
        return cuda_gpu() is not None if self._device is None else kind_of(self._device) != "cpu"


class Unfinished:
    """Says that a session has ended while its engines were still being opened or built.

    Args:
        engines: The set that was given; None if engines are built where there are none.
        provider: Builds them.

    Attributes:
        why: The reason and the remedy, in one line; "" unless engines were being opened at the
            last look.
    """

    def __init__(self, engines: Path | None, provider: EngineProvider) -> None:
        self._engines, self._provider = engines, provider
        self.why = ""

    def look(self, status: dict[str, Any]) -> None:
        """Takes a status of the running session."""
        building = status["building"]
        self.why = self._why(building["size"], status["mode"]) if building else ""

    def _why(self, size: str, mode: str) -> str:
        if self._engines is not None:
            return "the session ended before its engine was open"
        ahead = f"streamdiffvsr engines --size {size}"
        if (model := self._provider.request.model) not in (None, BUILT_IN):
            ahead += f" --model {shlex.quote(model)}"
        if mode != EXACT and size == _TILES and (batch := self._provider.tile_batch) > 1:
            ahead += f" --batch {batch}"
        return f"the session ended before its engine was built; `{ahead}` builds it ahead"


def expected_s(size: Size, cores: int) -> float:
    """Returns the seconds that an output frame roughly takes on a CPU, for frames of a size."""
    pixels = SCALE * SCALE * size[0] * size[1]
    return pixels * _PIXEL_NS * 1e-9 * 2 / max(1, min(cores, _MOST_CORES))


def without_frames(ended: Ended, status: dict[str, Any]) -> StreamDiffVSRError | None:
    """Returns an error if no frame has ever come from the source, else None."""
    source = status["source"]
    if source["received"] or ended.error is not None:
        return None
    why = source["error"] or "it has not answered yet"
    return StreamDiffVSRError(f"no frame came from {source['name']!r}", why, source["remedy"])
