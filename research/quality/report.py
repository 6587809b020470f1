"""Formats the results of `quality`: a table of the clips, and each bound with its figure.

Everything is computed from the measured figures, in the form in which they are printed as JSON.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

WAYS = ("ours", "unguided", "bicubic")
FIGURES = ("psnr", "ssim", "warp_error", "warp_excess", "flicker")
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}

PSNR_GAIN_DB, PSNR_GAIN_LEAST_DB = 0.7, 0.3
TEMPORAL_RATIO = 1.1
STILL_FLICKER = 0.5  # levels that a still picture may change from frame to frame
GHOST_DB = 0.3  # that frames after a cut may lose because of those before it
DRIFT_DB = 0.1  # that the last frames may lose to the first
COLOUR_LEVELS = 1.0
NO_RATIO = 1e6  # for a division by zero; JSON has no infinity

Clip = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One bound: `figure relation limit` must hold.

    Attributes:
        where: The clip that the figure belongs to, or "" for all.
    """

    bound: str
    figure: float
    relation: str
    limit: float
    where: str = ""

    @property
    def passed(self) -> bool:
        """Returns whether the bound holds; it never does for NaN."""
        return bool(COMPARE[self.relation](self.figure, self.limit))

    def to_json(self) -> dict[str, Any]:
        """Returns the check's entry in the JSON line."""
        return {**asdict(self), "figure": round(self.figure, 4), "passed": self.passed}


def means(clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Returns the mean of every figure over the clips, for each of `WAYS`."""
    return {
        way: {f: sum(clip[way][f] for clip in clips) / len(clips) for f in FIGURES} for way in WAYS
    }


def checks(clips: Sequence[Clip]) -> list[Check]:
    """Returns every bound with its figure."""
    worst = partial(_worst, clips)
    return [
        *_gains(clips, "psnr", ">=", PSNR_GAIN_DB, PSNR_GAIN_LEAST_DB),
        *_gains(clips, "ssim", ">", 0.0, 0.0),
        _average_ratio(clips, "warp_error", "unguided", "<", 1.0),
        _worst_ratio(clips, "warp_error", "unguided", "<", 1.0),
        _average_ratio(clips, "flicker", "unguided", "<", 1.0),
        _worst_ratio(clips, "flicker", "unguided", "<", 1.0),
        # Not clip by clip: sampling costs a sharp picture more than a blurred one. If a zoom makes
        # bicubic's warp error small, the truth's own is a third above it.
        _average_ratio(clips, "warp_error", "bicubic", "<=", TEMPORAL_RATIO),
        _average_ratio(clips, "flicker", "bicubic", "<=", TEMPORAL_RATIO),
        _worst_ratio(clips, "flicker", "bicubic", "<=", TEMPORAL_RATIO),
        worst("flicker of a still picture, levels", "still_flicker", STILL_FLICKER),
        worst("PSNR lost to what was before a cut, dB", "ghost_db", GHOST_DB),
        worst("PSNR lost from the 10th frame to the last, dB", "drift_db", DRIFT_DB),
        worst("channel means off the input's, levels", "colour_shift_max", COLOUR_LEVELS),
    ]


def _gains(
    clips: Sequence[Clip], figure: str, relation: str, average: float, least: float
) -> list[Check]:
    gains = {clip["name"]: clip["ours"][figure] - clip["bicubic"][figure] for clip in clips}
    bound = f"{figure.upper()} above bicubic's"
    where = min(gains, key=gains.__getitem__)
    return [
        Check(f"{bound}, average", sum(gains.values()) / len(gains), relation, average),
        Check(f"{bound}, worst clip", gains[where], relation, least, where),
    ]


def _average_ratio(
    clips: Sequence[Clip], figure: str, other: str, relation: str, limit: float
) -> Check:
    """Checks the ratio of our mean to the other's mean."""
    ours, theirs = (sum(clip[way][figure] for clip in clips) for way in ("ours", other))
    ratio = ours / theirs if theirs else NO_RATIO
    return Check(f"{_words(figure)} / {other}'s, average", ratio, relation, limit)


def _worst_ratio(
    clips: Sequence[Clip], figure: str, other: str, relation: str, limit: float
) -> Check:
    """Checks the worst ratio, of clips whose other figure is not 0.

    Bicubic's flicker of a still picture is 0.
    """
    ratios = {c["name"]: c["ours"][figure] / c[other][figure] for c in clips if c[other][figure]}
    where = max(ratios, key=ratios.__getitem__, default="")
    bound = f"{_words(figure)} / {other}'s, worst clip"
    return Check(bound, ratios.get(where, NO_RATIO), relation, limit, where)


def _worst(clips: Sequence[Clip], bound: str, key: str, limit: float) -> Check:
    """Checks the largest value of a figure that some or all clips have."""
    found = max((clip for clip in clips if key in clip), key=operator.itemgetter(key))
    return Check(bound, found[key], "<=", limit, found["name"])


def _words(figure: str) -> str:
    return figure.replace("_", " ")


def table(clips: Sequence[Clip]) -> str:
    """Returns a line per clip; each figure for ours, ours without guidance, and bicubic.

    Errors and the colour shift are in 8-bit levels. `truth` is the truth's own warp error.
    """
    width = max(len(clip["name"]) for clip in clips)
    ways = f"{'ours':>6} {'off':>6} {'bicub':>6}"
    heads = ("PSNR dB", "SSIM", "flicker", "warp error")
    lines = [
        f"{'':{width}}         | {' | '.join(f'{head:^20}' for head in heads)}".rstrip(),
        f"{'clip':{width}}   input | {ways} | {ways} | {ways} | {ways}  truth | colour",
    ]
    lines += [_row(clip, width) for clip in clips]
    lines.append(_row({"name": "mean", **means(clips)}, width))
    return "\n".join(lines)


def _row(clip: Clip, width: int) -> str:
    cells = [
        " ".join(f"{clip[way][figure]:6.{digits}f}" for way in WAYS)
        for figure, digits in (("psnr", 2), ("ssim", 4), ("flicker", 2), ("warp_error", 2))
    ]
    row = f"{clip['name']:{width}} {clip.get('input', ''):>7} | {' | '.join(cells)}"
    if "truth_warp_error" not in clip:
        return row
    return f"{row} {clip['truth_warp_error']:6.2f} | {clip['colour_shift_max']:6.2f}"


def verdict(found: Sequence[Check]) -> str:
    """Returns a line per bound."""
    lines = []
    for check in found:
        what = f"{check.bound} ({check.where})" if check.where else check.bound
        mark = "pass" if check.passed else "FAIL"
        lines.append(f"{mark}  {check.figure:8.4f} {check.relation:>2} {check.limit:<5g} {what}")
    return "\n".join(lines)
