"""Defines the options for opening a live source."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt

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
