"""Stages of a frame, summed up from the spans of a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .observed import Span
from .quantiles import median, quantiles

ORDER = ("upload", "prepare", "features", "flow", "guide", "temporal", "denoise", "decode")


def stage_table(spans: Sequence[Span], frame_ms: Sequence[float], steps: int) -> dict[str, Any]:
    """What each stage takes in the plain loop, and how much of the frame that explains.

    Args:
        spans: Of whole frames, as many as there are times.
        frame_ms: Of the same frames, measured around all of them by the host.
        steps: Of denoising.
    """
    by_frame: dict[int, dict[str, float]] = defaultdict(dict)
    for span in numbered(spans, steps):
        stages = by_frame[span.frame]
        stages[span.name] = stages.get(span.name, 0.0) + span.ms  # a tile's share
    names = sorted({name for stages in by_frame.values() for name in stages}, key=_place)
    sums = [sum(stages.values()) for stages in by_frame.values()]
    # Frame by frame, then the middle: medians of stages need not add up to the median of frames.
    shares = [s / whole for s, whole in zip(sums, frame_ms, strict=True)]
    return {
        "order": names,
        "ms": {
            name: quantiles([s[name] for s in by_frame.values() if name in s]) for name in names
        },
        "sum_p50": round(median(sums), 4),
        "frame_p50": round(median(frame_ms), 4),
        "accounted": round(median(shares), 4),
    }


def numbered(spans: Sequence[Span], steps: int) -> list[Span]:
    """The same with the denoising steps told apart, which the host runs under one name."""
    calls = Counter((span.frame, span.name) for span in spans)
    seen: Counter[int] = Counter()
    told = []
    for span in spans:
        if span.name == "denoise":
            each = calls[span.frame, "denoise"] // steps  # the tiles of a frame
            told.append(replace(span, name=f"denoise {1 + seen[span.frame] // each}"))
            seen[span.frame] += 1
        else:
            told.append(span)
    return told


def _place(name: str) -> tuple[int, str]:
    stage = name.split()[0]
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), name)
