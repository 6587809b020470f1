"""Defines `streamdiffvsr live`, which upscales a camera or a stream as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..building.request import BuildRequest
from ..engines.host import require_live
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import Size, format_size
from ..runtime.live.mode import ADAPTIVE, AUTO, EXACT
from ..runtime.live.sink_targets import accepted
from . import options as opt
from .console import FAILED, leave_at_once, show_error
from .live_modes import Mode, RefreshS, Roi, build_lines, choose_mode, tile_opener
from .live_preview import PreviewAt, Token, TokenFile, open_preview, preview_at
from .live_source import (
    OpenTimeout,
    RtspTransport,
    SizeAdvice,
    StallTimeout,
    Unfinished,
    without_frames,
)
from .live_status import Reporter

if TYPE_CHECKING:
    from ..building.provider import EngineProvider
    from ..runtime.adaptive.upscaler import Region
    from ..runtime.live.engine_pool import QualityLevels
    from ..runtime.live.running import Ended

Tell = Callable[[str], None]
FLOW_RUNGS = {"flow 1/2": 2, "flow 1/4": 4}
FEW_STEPS = 2

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Source: an address (rtsp://, http://, rtmp://, udp://, tcp://, rtp:// or srt://), a "
        "camera (webcam:0 or /dev/video0), screen, testsrc or testsrc=WxH@FPS (a test "
        "pattern), or a video file, which is played at its own speed.",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SINK",
        help=f"Output: {accepted(short=True)}; repeat for more outputs."
        + opt.default("only the preview page"),
    ),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        min=1,
        help="Keep the time from a decoded frame to its output below MS milliseconds, at the cost "
        "of quality if necessary." + opt.default("no limit"),
    ),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="libav option for opening the source, such as user_agent=NAME; repeat for more "
        "options.",
    ),
]
NoReconnect = Annotated[
    bool,
    opt.flag("--no-reconnect", "End when the source ends or fails, instead of opening it again."),
]
NoAudio = Annotated[bool, opt.flag("--no-audio", "Leave the sound of the source out.")]
OverwriteSinks = Annotated[bool, opt.flag("--overwrite", "Replace existing output files.")]


@opt.with_build_options()
def live(
    source: Source,
    to: To = None,
    preview: PreviewAt = None,
    mode: Mode = AUTO,
    roi: Roi = None,
    refresh_s: RefreshS = None,
    latency_ms: LatencyMs = None,
    max_seconds: opt.MaxSeconds = None,
    max_frames: opt.MaxFrames = None,
    engines: opt.Engines = None,
    seed: opt.Seed = 0,
    token: Token = None,
    token_file: TokenFile = None,
    option: SourceOption = None,
    rtsp_transport: RtspTransport = "auto",
    open_timeout: OpenTimeout = None,
    stall_timeout: StallTimeout = None,
    no_reconnect: NoReconnect = False,
    no_audio: NoAudio = False,
    overwrite: OverwriteSinks = False,
    json: opt.JsonLines = False,
    *,
    build: BuildRequest,
) -> dict[str, Any]:
    """Upscale a live source 4x, at its own rate.

    Without --to the result is shown on the preview page.
    """
    require_live()
    from ..building.provider import EngineProvider
    from ..runtime.live.camera import CameraPlan, Engines, closing_all, open_camera, open_sinks
    from ..runtime.live.engine_pool import BICUBIC, EnginePool
    from ..runtime.live.running import run_session
    from ..runtime.live.tile_thread import TileThread

    reporter = Reporter(as_json=json)
    tell, camera = reporter.tell, None

    def status() -> dict[str, Any]:  # the preview is opened before the session
        return camera.session.status() if camera else {"state": "connecting"}

    def prefer(regions: Sequence[Region]) -> None:
        if camera is None:
            raise UsageError("no regions can be set yet", "the session is starting", "try again")
        camera.session.prefer(regions)

    place = preview_at(preview, token, token_file, needed=not to)
    provider = EngineProvider(build, tell)
    how = choose_mode(mode, engines, roi, refresh_s, tell)
    plan = CameraPlan(
        source,
        tuple(to or ()),
        mode=how.mode,
        regions=how.regions,
        refresh_s=how.refresh_s,
        latency_ms=latency_ms,
        seed=seed,
        options=tuple(_pairs(option).items()),
        rtsp_transport=rtsp_transport,
        open_timeout_s=open_timeout,
        stall_timeout_s=stall_timeout,
        reconnect=not no_reconnect,
        sound=not no_audio,
        overwrite=overwrite,
    )
    plan.address()
    if engines is None:
        provider.check_runs_here()
    exact = how.mode == EXACT
    # Adaptive frames take the place of the lower rungs, and a set of tiles has no whole frames.
    open_whole = opener(engines, provider, seed, latency_ms if exact else None, tell)
    meanwhile, given = BICUBIC if exact else ADAPTIVE, engines is not None
    shelf = EnginePool(open_whole, tell=tell, meanwhile=meanwhile, given=given)
    sinks = open_sinks(plan, tell)
    with closing_all(sinks):  # `run_session` closes them, unless something fails before
        if place is not None:
            settable = None if exact else prefer
            sinks.append(open_preview(place, token, token_file, status, tell, settable))
        tiles = None if exact else TileThread(tile_opener(engines, provider, tell))
        camera = open_camera(plan, Engines(shelf, tiles), sinks, tell)
        with closing(camera.source):
            advice = SizeAdvice(provider.run_on, tell)
            unfinished = Unfinished(engines, provider)

            def show(now: dict[str, Any]) -> None:
                advice.look(now)
                unfinished.look(now)
                reporter.show(now)

            ended = run_session(camera.session, camera.source, shelf, max_seconds, max_frames, show)
    return _finish(ended, camera.session.status(), reporter, unfinished.why)


def _finish(
    ended: Ended, status: dict[str, Any], reporter: Reporter, unfinished: str
) -> dict[str, Any]:
    if status["frames"] and status["passed_through"] == status["frames"]:
        why = unfinished or status["note"] or status["rung"]
        reporter.tell(f"no frame was made by the model: {why}")
    if error := without_frames(ended, status):
        status = {**status, "error": str(error), "exit_code": FAILED}
    reporter.end(ended.reason, status)
    if error:
        show_error(str(error))
    if ended.stuck:
        leave_at_once()
    if ended.error is not None:
        raise ended.error
    return {"reason": ended.reason, **status}


def opener(
    engines: Path | None,
    provider: EngineProvider,
    seed: int,
    latency_ms: float | None,
    tell: Tell = lambda _: None,
) -> Callable[[Size, Tell], QualityLevels]:
    """Returns a function that opens the engines for a frame size.

    Args:
        engines: The set to open; None for the provider's.
        latency_ms: If there is such a limit, cheaper sets from the cache are opened too.
        tell: Receives a line that says why a set of the cache is built again.

    Returns:
        A function of the size and of a function that receives the progress of a build.
    """

    def open_levels(size: Size, at: Tell) -> QualityLevels:
        from ..runtime.live.engine_pool import QualityLevels
        from ..runtime.upscaler import load

        lines = build_lines(at, tell)
        made = provider.get(size, lines) if engines is None else _given(engines, size)
        folders = {"full": made}
        if engines is None and latency_ms is not None:
            cheaper = cheaper_sets(provider, size)
            # A model whose own flow is coarse has the same set for a cheaper rung.
            folders |= {rung: one for rung, one in cheaper.items() if one != made}
        device = provider.run_on
        opened = {rung: load(folder, device, size).session() for rung, folder in folders.items()}
        what = opt.described(made, device)
        described = "{model} {size} {precision}, {backend} on {device}".format(**what)
        return QualityLevels(
            opened, seed=seed, described=described, device=device or what["device"]
        )

    return open_levels


def _given(engines: Path, size: Size) -> Path:
    """Returns the given engine set; raises `StreamDiffVSRError` if it is for another size."""
    from ..engines.manifest import read_manifest

    graphs = read_manifest(engines).graphs
    if graphs.at(size).geometry.size != size:
        made_for = format_size(graphs.geometry.size)
        raise StreamDiffVSRError(
            f"no engines for {format_size(size)}",
            f"those of --engines are made for {made_for}",
            "leave out --engines, and they are built",
        )
    return engines


def cheaper_sets(provider: EngineProvider, size: Size) -> dict[str, Path]:
    """Returns the cached sets with a coarser flow or fewer steps, by rung, the best first."""
    request = provider.request
    variants: dict[str, dict[str, int]] = {
        rung: {"flow_scale": scale}
        for rung, scale in FLOW_RUNGS.items()
        if scale > (request.flow_scale or 1)
    }
    if request.steps > FEW_STEPS:
        variants[f"{FEW_STEPS} steps"] = {"steps": FEW_STEPS}
    found = {rung: provider.variant(**one).find(size) for rung, one in variants.items()}
    return {rung: folder for rung, folder in found.items() if folder is not None}


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("an --option is not NAME=VALUE")  # it may be a secret: not shown
        pairs[name] = value
    return pairs
