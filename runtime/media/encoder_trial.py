"""Finds out which encoders work on this machine, by encoding a frame of the actual size.

A build of libav may name an encoder whose driver or chip is missing, and a driver may crash or
hang, so encoders are tried in a process of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...errors import StreamDiffVSRError, option
from ..processes.child import Child
from .encoders import HARDWARE, SOFTWARE, VideoFormat, live_options, live_pixel_format

ATTEMPT_S = 15.0  # an idle driver may take seconds to wake up

_answers: dict[tuple[int, int], LiveEncoder] = {}
_asking = threading.Lock()


@dataclass(frozen=True, slots=True)
class LiveEncoder:
    """The encoder to use for live video, and one line on why the preferred ones were refused."""

    name: str
    why: str


def live_encoder(size: tuple[int, int]) -> LiveEncoder:
    """Returns the H.264 encoder for live frames of (H, W): one in hardware that works, else x264.

    The first answer for a size takes a second or so; it is kept while this process runs.
    """
    with _asking:
        if size not in _answers:
            _answers[size] = _ask(size)
        return _answers[size]


def live_candidate(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the message by which a child tries an encoder as live video opens it."""
    options = live_options(name, size, Fraction(30), 23)
    return {"encoder": name, "pixel_format": live_pixel_format(name), "options": options}


def first_that_works(formats: Sequence[VideoFormat], size: tuple[int, int]) -> VideoFormat:
    """Returns the first format whose encoder can encode a frame of (H, W).

    Raises:
        StreamDiffVSRError: None can; the message has the reason of each.
    """
    refused = _refused(
        [
            {"encoder": one.encoder, "pixel_format": one.pixel_format, "options": one.options}
            for one in formats
        ],
        size,
    )
    if len(refused) < len(formats):
        return formats[len(refused)]
    if len(formats) == 1:
        what, why = f"{formats[0].encoder} does not work here", refused[0]
    else:
        reasons = zip(formats, refused, strict=True)
        what = "no encoder in hardware works here"
        why = "; ".join(f"{one.encoder}: {reason}" for one, reason in reasons)
    raise StreamDiffVSRError(what, why, f"use {option('encoder', 'software')}")


def _ask(size: tuple[int, int]) -> LiveEncoder:
    names = HARDWARE["h264"]
    refused = _refused([live_candidate(name, size) for name in names], size)
    reasons = zip(names, refused, strict=False)
    why = "; ".join(f"{name}: {' '.join(reason.split())}" for name, reason in reasons)
    return LiveEncoder([*names, SOFTWARE["h264"]][len(refused)], why)


def _refused(candidates: Sequence[dict[str, Any]], size: tuple[int, int]) -> list[str]:
    """Returns the reason of each failing candidate before the first one that works."""
    refused: list[str] = []
    while len(refused) < len(candidates):
        if _one_works(candidates[len(refused) :], size, refused):
            break
    return refused


def _one_works(
    candidates: Sequence[dict[str, Any]], size: tuple[int, int], refused: list[str]
) -> bool:
    """Tries candidates in one process until one works; adds the reason of each failure."""
    child: Child | None = None
    try:
        child = Child(
            "runtime.media.encoder_trial_child",
            {"candidates": list(candidates), "size": list(size), "attempt_s": ATTEMPT_S},
            failure="it failed",
            deadline_s=ATTEMPT_S,
        )
        for _ in candidates:
            answer, _ = child.receive()
            if not answer["why"]:
                return True
            refused.append(answer["why"])
    except StreamDiffVSRError as error:  # it crashed or hung: another process tries the rest
        refused.append(error.why or error.what)
    finally:
        if child:
            child.close()
    return False
