"""Measures how sound and picture of a recording go together, by the clock in the picture and the
beep at each of its seconds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from streamdiffvsr.benchmarks import clock_code

_LOUD = 0.1  # of full scale
_QUIET_S = 0.3  # before a beep
_WHOLE_S = 0.09  # of 0.1


@dataclass(frozen=True)
class Recording:
    """What is in a recording.

    Attributes:
        shown: (time in the recording, the clock in the picture) of each readable frame, in seconds.
        beeps: The times in the recording at which whole beeps begin.
        codecs: The codecs of the streams of sound.
        gaps: The times at which sound stops for more than 50 ms, and for how long.
    """

    shown: list[tuple[float, float]]
    beeps: list[float]
    codecs: list[str]
    gaps: list[tuple[float, float]]

    def offsets_ms(self, begin: float = 0.0, end: float = 1e9) -> list[float]:
        """Returns by how much each beep in that part comes late, against the picture."""
        found = []
        for beep in self.beeps:
            near = [at - clock for at, clock in self.shown if abs(at - beep) < 1.0]
            if begin <= beep < end and near:
                late = beep - statistics.median(near)
                found.append(1000 * (late - round(late)))
        return found


def listen(path: Path | str, *, scale: int = 4, stream: int = 0) -> Recording:
    """Decodes a recording."""
    with av.open(str(path)) as container:
        codecs = [stream.codec_context.name for stream in container.streams.audio]
        shown = []
        for frame in container.decode(video=0):
            clock = clock_code.read(frame.to_ndarray(format="rgb24"), scale=scale)
            if clock is not None:
                shown.append((float(frame.pts * frame.time_base), clock / 1e6))
    if not codecs:
        return Recording(shown, [], [], [])
    loud: list[list[float]] = []  # begin and end
    gaps: list[tuple[float, float]] = []
    due = None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=stream):
            begin = float(frame.pts * frame.time_base)
            if due is not None and begin > due + 0.05:
                gaps.append((due, begin - due))
            due = begin + frame.samples / frame.sample_rate
            for index in np.flatnonzero(np.abs(_mono(frame)) > _LOUD):
                at = begin + float(index) / frame.sample_rate
                if not loud or at > loud[-1][1] + _QUIET_S:
                    loud.append([at, at])
                loud[-1][1] = at
    beeps = [begin for begin, end in loud if end - begin > _WHOLE_S]  # not cut by a new connection
    return Recording(shown, beeps, codecs, gaps)


def _mono(frame: Any) -> np.ndarray:
    """The first channel, from -1 to 1."""
    samples = frame.to_ndarray()
    if frame.format.is_packed:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    one = samples[0].astype(np.float64)
    return one if frame.format.name.startswith("flt") else one / 32768
