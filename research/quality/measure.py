"""Measures all figures of a clip upscaled by a model, and the time that a frame takes."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ...graphs.spec import format_size
from ...runtime.state import StreamState
from .clips import MeasuredClip
from .metrics import bicubic_frames, colour_shift, psnr, ssim, temporal_errors

Frames = npt.NDArray[np.uint8]
WARM_UP = 2  # frames that are not timed
GHOST_FRAMES = 5  # frames after a cut that are examined


class Steps(Protocol):
    """The measured object: `Upscaler`, or a test's stand-in for it."""

    def initial_state(self, seed: int = 0) -> StreamState:
        """Returns the state before the first frame."""

    def step(self, frame: Frames, state: StreamState) -> tuple[Frames, StreamState]:
        """Upscales one frame."""


def measure_clip(upscaler: Steps, clip: MeasuredClip) -> dict[str, Any]:
    """Returns all figures of one clip, for the JSON."""
    everywhere = range(len(clip.lr))
    outputs = {
        "ours": upscale(upscaler, clip.lr),
        "unguided": upscale(upscaler, clip.lr, resets=everywhere),
        "bicubic": bicubic_frames(clip.lr),
    }
    result: dict[str, Any] = {
        "name": clip.name,
        "kind": clip.kind,
        "input": format_size(clip.size),
        "frames": len(clip.lr),
    }
    for way, output in outputs.items():
        result[way] = {
            "psnr": float(psnr(output, clip.truth).mean()),
            "ssim": ssim(output, clip.truth),
            **temporal_errors(output, clip.truth, clip.flow, clip.visible),
        }
    own = temporal_errors(clip.truth, clip.truth, clip.flow, clip.visible)
    result["truth_warp_error"] = own["warp_error"]
    shift = colour_shift(outputs["ours"], clip.lr)
    result["colour_shift"] = shift.mean(axis=0).tolist()
    result["colour_shift_max"] = float(np.abs(shift.mean(axis=0)).max())
    result["colour_shift_max_frame"] = float(np.abs(shift).max())
    of_frames = psnr(outputs["ours"], clip.truth)
    if clip.kind == "still":
        result["still_flicker"] = result["ours"]["flicker"]
    if clip.cut is not None:
        fresh = psnr(upscale(upscaler, clip.lr, resets=(clip.cut,)), clip.truth)
        result["ghost_db"] = ghost(of_frames, fresh, clip.cut)
    if clip.same is not None:
        result["drift_db"] = drift(of_frames, *clip.same)
    return cast(dict[str, Any], rounded(result))


def upscale(upscaler: Steps, lr: Frames, resets: Container[int] = ()) -> Frames:
    """Upscales (T, h, w, 3) to (T, 4h, 4w, 3), each frame guided by the last except at `resets`.

    A reset forgets the previous frame but keeps the count, so the noise is the same either way.
    """
    state, outputs = upscaler.initial_state(), []
    for index, frame in enumerate(lr):
        out, state = upscaler.step(frame, state.reset() if index in resets else state)
        outputs.append(out)
    return np.stack(outputs)


def ghost(through: npt.NDArray[Any], fresh: npt.NDArray[Any], cut: int) -> float:
    """Returns the largest PSNR in dB that a frame after a cut loses to the frames before it.

    Args:
        through: (T,) PSNR of frames upscaled as if there were no cut.
        fresh: (T,) PSNR of the same frames with the state reset at the cut.
    """
    return float((fresh - through)[cut : cut + GHOST_FRAMES].max())


def drift(of_frames: npt.NDArray[Any], first: slice, last: slice) -> float:
    """Returns the PSNR in dB that a clip's last frames lose to early frames of the same views."""
    return float(of_frames[first].mean() - of_frames[last].mean())


def frame_times(upscaler: Steps, lr: Frames) -> dict[str, Any]:
    """Returns the time of a guided frame, uint8 in to uint8 out; the first two are not counted."""
    state, times = upscaler.initial_state(), []
    for frame in lr:
        started = time.perf_counter()
        _, state = upscaler.step(frame, state)
        times.append(1e3 * (time.perf_counter() - started))
    counted = times[WARM_UP:]
    return {
        "input": format_size((lr.shape[1], lr.shape[2])),
        "output": format_size((4 * lr.shape[1], 4 * lr.shape[2])),
        "timed": "one guided frame, uint8 in to uint8 out, no decoding or encoding",
        "frames": len(counted),
        "ms_per_frame_median": round(float(np.median(counted)), 1),
        "ms_per_frame_p95": round(float(np.percentile(counted, 95)), 1),
    }


def rounded(value: Any) -> Any:
    """Returns the figures rounded to four decimal places, as precise as they can be."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
