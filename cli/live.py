"""`streamdiffvsr live`: a camera or a stream in, files, streams and a browser out.

Puts source, engines and sinks together and shows what they tell; what they do is in runtime/live.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import leave_at_once
from ..errors import UsageError
from ..host import require_live
from . import options as opt
from .engines import check_runs_here
from .live_engines import opener
from .status_line import Reporter

if TYPE_CHECKING:
    from ..runtime.live.frame import Sink
    from ..runtime.live.operation import Ended
    from ..runtime.live.session import LiveSession

PREVIEW = "127.0.0.1:8080"
TOKEN = "STREAMDIFFVSR_TOKEN"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="rtsp://..., http://..., rtmp://, udp://, webcam:0, /dev/video0, screen, testsrc, "
        "or a file, which is played at its own speed.",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SINK",
        help="A file, rtsp://, rtmp://, udp://, tcp://, NAME.m3u8, a FOLDER/, or null; repeat it.",
    ),
]
PreviewAt = Annotated[
    str | None,
    typer.Option("--preview", metavar="[HOST:PORT]", help=f"A page to watch; at {PREVIEW}."),
]
LatencyMs = Annotated[
    float | None, typer.Option(metavar="MS", min=1, help="Shed work to keep the latency below it.")
]
MaxSeconds = Annotated[float | None, typer.Option(metavar="S", min=0.1, help="Stop after S.")]
Token = Annotated[
    str | None, typer.Option(metavar="T", help=f"What the page asks for; or in {TOKEN}.")
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Of libav, for the source; repeat it."),
]
NoReconnect = Annotated[
    bool, typer.Option("--no-reconnect", metavar="", help="End when the source ends or fails.")
]
OverwriteSinks = Annotated[
    bool, typer.Option("--overwrite", metavar="", help="Replace existing files.")
]


def with_preview_at(arguments: Sequence[str]) -> list[str]:
    """A `--preview` without a value gets the usual one: the parser wants one."""
    given: list[str] = []
    for index, argument in enumerate(arguments):
        given.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else "-"
        if argument == "--preview" and not _is_place(following):
            given.append(PREVIEW)
    return given


def live(
    source: Source,
    to: To = None,
    preview: PreviewAt = None,
    latency_ms: LatencyMs = None,
    max_seconds: MaxSeconds = None,
    max_frames: opt.MaxFrames = None,
    engines: opt.Engines = None,
    model: opt.Model = None,
    seed: opt.Seed = 0,
    token: Token = None,
    option: SourceOption = None,
    no_reconnect: NoReconnect = False,
    overwrite: OverwriteSinks = False,
    backend: opt.BackendName = "auto",
    precision: opt.PrecisionName = None,
    steps: opt.Steps = 4,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Upscale a live source 4x, newest frame first: latency never grows.

    Without --to and --preview it shows the preview page.
    """
    require_live()
    from ..runtime.live.operation import run_session
    from ..runtime.live.session import LiveSession
    from ..runtime.live.shelf import EnginePool
    from ..runtime.live.source import LiveSource
    from ..runtime.media.live.address import parse_source

    options = opt.BuildOptions(backend, precision, steps, flow_scale, tile, device, revision)
    address = parse_source(source, _pairs(option))
    if engines is None:
        check_runs_here(options)
    reporter = Reporter(as_json=json)
    tell, seen = reporter.tell, SessionStatus()
    shelf = EnginePool(opener(engines, model, options, seed, latency_ms, tell), tell=tell)
    sinks = _sinks(to or [], overwrite, tell)
    with closing_all(sinks):  # closed by `operate`; here if it never comes to that
        if preview is not None or not sinks:
            sinks.append(_preview(preview or PREVIEW, token, seen, tell))
        with closing(LiveSource(address, tell=tell, reconnect=not no_reconnect)) as feed:
            session = seen.session = LiveSession(feed, shelf, sinks, limit_ms=latency_ms, tell=tell)
            ended = run_session(session, feed, shelf, max_seconds, max_frames, reporter.show)
    return _finish(ended, session.status(), reporter)


class SessionStatus:
    """The status of a session, for what is opened before it."""

    def __init__(self) -> None:
        self.session: LiveSession | None = None

    def __call__(self) -> dict[str, Any]:
        return self.session.status() if self.session else {"state": "connecting"}


@contextmanager
def closing_all(sinks: list[Sink]) -> Iterator[None]:
    """Close the sinks if the block fails."""
    try:
        yield
    except BaseException:
        for sink in sinks:
            sink.close(1.0)
        raise


def _finish(ended: Ended, status: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    if status["frames"] and status["passed_through"] == status["frames"]:
        reporter.tell(f"no frame was made by the model: {status['note'] or status['rung']}")
    reporter.end(ended.reason, status)
    if ended.stuck:
        leave_at_once()
    if ended.error is not None:
        raise ended.error
    return {"reason": ended.reason, **status}


def _sinks(targets: list[str], overwrite: bool, tell: Callable[[str], None]) -> list[Sink]:
    from ..runtime.live.sinks import open_sink
    from ..runtime.media.redact import redact

    opened: list[Sink] = []
    if twice := sorted({target for target in targets if targets.count(target) > 1}):
        raise UsageError(f"--to {redact(twice[0])} is given twice", remedy="name it once")
    with closing_all(opened):
        for target in targets:
            opened.append(open_sink(target, overwrite=overwrite, tell=tell))
    return opened


def _preview(
    place: str, token: str | None, status: SessionStatus, tell: Callable[[str], None]
) -> Sink:
    from ..runtime.live.preview.sink import Preview

    host, _, port = place.rpartition(":")
    page = Preview(
        host.strip("[]") or "127.0.0.1",
        int(port),
        token=token or os.environ.get(TOKEN) or None,
        status=status,
        tell=tell,
    )
    tell(f"preview: {page.url}")
    return page


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {text!r:.60} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _is_place(text: str) -> bool:
    """Whether it is HOST:PORT or :PORT, and no address with a scheme, device or option."""
    host, colon, port = text.rpartition(":")
    return bool(colon) and port.isdigit() and "/" not in host and host not in ("webcam", "screen")
