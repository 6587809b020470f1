"""Defines the options of adaptive mode, which `live` and `bench live` take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..building.provider import REFRESH_S
from ..engines.host import has_adaptive, require_adaptive
from ..errors import UsageError
from ..graphs.spec import format_size
from ..runtime.live.mode import ADAPTIVE, AUTO, EXACT, MODES
from . import options as opt
from .console import PASSING

if TYPE_CHECKING:
    from ..building.provider import EngineProvider
    from ..runtime.adaptive.upscaler import Region
    from ..runtime.live.adaptive_frames import AdaptiveFrames
    from ..runtime.live.refiner import OpenedTiles

Tell = Callable[[str], None]
AGAIN, NEW = ("building ", "exporting again: "), " (new)"  # of the lines that `build` reports

Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="adaptive: the source's rate is kept, as long as the machine can carry a frame along "
        "in that time, and the model refines as many tiles as the time allows; exact: frames are "
        "made whole, and those that come too fast are dropped; auto: exact where whole frames keep "
        "the source's rate, else adaptive.",
    ),
]
RefreshS = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0.1,
        help="Refine every part of the picture again within S seconds, where the machine can; not "
        "in exact mode." + opt.default(f"{REFRESH_S:g}"),
    ),
]
Roi = Annotated[
    list[str] | None,
    typer.Option(
        "--roi",
        metavar="X,Y,W,H",
        help="Region of interest, in pixels of the source, which is refined first; repeat for more "
        "regions. Not in exact mode.",
    ),
]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """How a session makes frames.

    Attributes:
        mode: "auto", "exact" or "adaptive".
        regions: Regions of interest.
        refresh_s: Seconds after which every part is refined again.
    """

    mode: str
    regions: tuple[Region, ...] = ()
    refresh_s: float = REFRESH_S


def choose_mode(
    asked: str,
    engines: Path | None,
    roi: Sequence[str] | None = None,
    refresh_s: float | None = None,
    tell: Tell = lambda _: None,
) -> Adaptive:
    """Returns the mode of a session; a given engine set of whole frames makes auto exact.

    Raises:
        UsageError: The options do not go together, or one of them cannot be read.
        StreamDiffVSRError: OpenCV is not installed, and adaptive mode is asked for; or the engine
            set is none, or not trusted; or, without one, a key cannot be used, so that no set
            can be found or built.
    """
    if asked not in MODES:
        raise UsageError(
            f"unknown mode {asked!r:.60}",
            remedy=f"use --mode {', '.join(MODES[:-1])} or {MODES[-1]}",
        )
    regions = tuple(parse_region(text) for text in roi or ())
    mode = _mode_of(engines, asked)
    if mode == ADAPTIVE:
        require_adaptive()
    elif mode == AUTO and not has_adaptive():
        tell("without OpenCV all frames are made whole: pip install 'streamdiffvsr[live]'")
        mode = EXACT
    if mode == EXACT and (regions or refresh_s is not None):
        given = "--roi" if regions else "--refresh-s"
        if engines is not None and asked != EXACT:
            from ..runtime.adaptive.tile_engine import TILE

            raise UsageError(
                f"{given} has no effect with --engines {str(engines)!r}",
                "these engines make whole frames",
                f"use engines of tiles (--size {format_size((TILE, TILE))}), or leave out one",
            )
        raise UsageError(
            f"{given} has no effect in exact mode",
            "it makes every frame whole",
            "use --mode adaptive without engines of whole frames, or leave it out",
        )
    return Adaptive(mode, regions, REFRESH_S if refresh_s is None else refresh_s)


def _mode_of(engines: Path | None, asked: str) -> str:
    """Returns the mode in which an engine set is used: adaptive if it is of tiles."""
    from ..engines.trust import check_keys, trusted_manifest
    from ..runtime.adaptive.tile_engine import TILE

    if engines is None:
        check_keys()
        return asked
    size = trusted_manifest(engines).graphs.geometry.size
    if asked == EXACT:
        return EXACT
    if size == (TILE, TILE):
        return ADAPTIVE
    if asked == AUTO:
        return EXACT
    raise UsageError(
        f"--engines {str(engines)!r} does not go with --mode {asked}",
        f"its frames are {format_size(size)}, and tiles are {format_size((TILE, TILE))}",
        "leave out one of them",
    )


def parse_region(text: str) -> Region:
    """Returns the region of interest written as X,Y,W,H.

    Raises:
        UsageError: It is not written like that, or empty.
    """
    parts = text.split(",")
    what, why = f"--roi {text!r:.60} is not a region", ""
    if len(parts) == 4 and all(re.fullmatch(r"-?\d{1,5}", part.strip()) for part in parts):
        x, y, width, height = map(int, parts)
        if min(x, y) >= 0 and min(width, height) > 0:
            return x, y, width, height
        why = "X and Y are 0 or more, width and height above 0"
    raise UsageError(what, why, "write X,Y,W,H in pixels of the source, such as 40,20,64,48")


def build_lines(at: Tell, tell: Tell) -> Tell:
    """Returns a function that passes on the lines of a build.

    Args:
        at: Receives the steps. The preview page shows them.
        tell: Receives why a set or a graph of the cache is made again. These lines name folders,
            which the page must not show.
    """

    def passed_on(line: str) -> None:
        if line.startswith(PASSING):
            at(line)
        elif line.startswith(AGAIN) and not line.endswith(NEW):
            tell(line)

    return passed_on


def tile_opener(
    engines: Path | None, provider: EngineProvider, tell: Tell = lambda _: None
) -> Callable[[Tell], OpenedTiles]:
    """Returns a function that opens the engine of the tiles.

    Args:
        engines: The set to open; None for the provider's.
        tell: Receives why a set of the cache is made again.

    Returns:
        A function of a function that receives the progress of a build.
    """

    def opened(at: Tell) -> OpenedTiles:
        from ..runtime.live.refiner import open_tiles

        folder = provider.tiles(build_lines(at, tell)) if engines is None else engines
        return open_tiles(folder, provider.run_on)

    return opened


def open_adaptive(
    how: Adaptive,
    engines: Path | None,
    provider: EngineProvider,
    *,
    seed: int = 0,
    latency_ms: float | None = None,
    tell: Tell = lambda _: None,
) -> AdaptiveFrames | None:
    """Returns what makes frames from a canvas, with its engine opened in the background.

    Args:
        engines: The set of the tiles' engine; None for the provider's.

    Returns:
        None in exact mode.
    """
    if how.mode == EXACT:
        return None
    from ..runtime.live.adaptive_frames import AdaptiveFrames

    return AdaptiveFrames(
        tile_opener(engines, provider, tell),
        regions=how.regions,
        refresh_s=how.refresh_s,
        seed=seed,
        limit_ms=latency_ms,
        tell=tell,
    )
