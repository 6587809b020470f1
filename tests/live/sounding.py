"""Sessions with sound, and media that beep at each second of the clock in their picture."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.engine_pool import EnginePool
from streamdiffvsr.runtime.live.frame import Sink
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.runtime.live.sound import to_sinks
from streamdiffvsr.runtime.live.source import Backoff, LiveSource
from streamdiffvsr.tests.live.stand_ins import PassThrough, ladder
from streamdiffvsr.tests.live.streams import picture

SIZE, FPS = (90, 160), 15
RATE, BEEP_S, BEEP_HZ = 48000, 0.1, 1000
SOON = Backoff(first_s=0.3, longest_s=0.6)


class Sounding:
    """A session in a thread, with sound.

    Args:
        url: The source.
        sinks: Sinks, or what `open_sink` takes.
        cost_s: How long the engine takes for a frame.
    """

    def __init__(
        self, url: str, sinks: Sequence[Sink | str | Path], cost_s: float = 0.0, **source: Any
    ) -> None:
        self.told: list[str] = []
        self.sinks = [
            open_sink(str(sink), tell=self.told.append) if isinstance(sink, str | Path) else sink
            for sink in sinks
        ]
        options = {"backoff": SOON, "stall_timeout_s": 1.5, "hear": to_sinks(self.sinks), **source}
        self.source = LiveSource(parse_source(url), tell=self.told.append, **options)
        shelf = EnginePool(lambda size, tell: pytest.fail("engines are there"), tell=print)
        shelf.put(ladder(full=PassThrough(cost_s=lambda: cost_s, size=SIZE)))
        self.session = LiveSession(self.source, shelf, self.sinks)
        self.stop = threading.Event()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.session.run(self.stop)
        self.ended.set()

    def until(self, reached: Callable[[dict[str, Any]], object], deadline_s: float = 60) -> None:
        """Waits until the session's status is as wanted."""
        until = time.monotonic() + deadline_s
        while not reached(self.session.status()):
            assert time.monotonic() < until, (self.session.status(), self.told)
            self.stop.wait(0.02)

    def frames(self, more: int) -> None:
        """Waits for so many more frames."""
        wanted = self.session.status()["frames"] + more
        self.until(lambda status: status["frames"] >= wanted or self.ended.is_set())

    def close(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.source.close()
        for sink in self.sinks:
            sink.close(10.0)


@contextmanager
def sounding(
    url: str, sinks: Sequence[Sink | str | Path], cost_s: float = 0.0, **source: Any
) -> Iterator[Sounding]:
    session = Sounding(url, sinks, cost_s, **source)
    try:
        yield session
    finally:
        session.close()


def beeping(
    seconds: float,
    form: str,
    codecs: Sequence[str] = ("aac",),
    *,
    rate: int = RATE,
    layout: str = "mono",
    late_s: float = 0.0,
    slow: float = 1.0,
    sound_first: bool = False,
) -> bytes:
    """A media file whose sound beeps at each second of the clock in its picture.

    Args:
        codecs: libav's encoders of the streams of sound; the second one beeps at 2 kHz.
        late_s: By how much the sound comes late.
        slow: How long a second of the sound lasts by its times, as a camera's clocks may differ.
        sound_first: Whether sound has the first streams of the file.
    """
    held = io.BytesIO()
    with av.open(held, "w", format=form) as output:
        fast = {"preset": "ultrafast", "tune": "zerolatency"}
        tracks: list[Any] = []
        if sound_first:
            tracks = [output.add_stream(codec, rate=rate, layout=layout) for codec in codecs]
        video: Any = output.add_stream("libx264", rate=FPS, options=fast)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        video.gop_size = FPS
        if not sound_first:
            tracks = [output.add_stream(codec, rate=rate, layout=layout) for codec in codecs]
        shown = 0
        heard = [0] * len(tracks)
        resamplers = [
            av.AudioResampler(
                format=track.codec_context.format.name,
                layout=layout,
                rate=rate,
                frame_size=track.codec_context.frame_size or 1024,
            )
            for track in tracks
        ]
        while shown < seconds * FPS:
            frame = av.VideoFrame.from_ndarray(
                picture(round(shown / FPS * 1e6), *SIZE), format="rgb24"
            )
            frame.pts, frame.time_base = shown, Fraction(1, FPS)
            output.mux(video.encode(frame.reformat(format="yuv420p")))
            shown += 1
            for number, track in enumerate(tracks):
                while heard[number] * slow < shown / FPS * rate:
                    samples = _beep(heard[number], 960, rate / slow, BEEP_HZ * (number + 1), late_s)
                    sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                    sound.sample_rate, sound.pts = rate, heard[number]
                    sound.time_base = Fraction(1, rate)
                    heard[number] += 960
                    for one in resamplers[number].resample(sound):
                        for packet in track.encode(one):
                            packet.pts = packet.dts = round(packet.pts * slow)
                            output.mux(packet)
        for stream in [video, *tracks]:
            output.mux(stream.encode(None))
    return held.getvalue()


def _beep(start: int, count: int, rate: float, hz: int, late_s: float) -> np.ndarray:
    seconds = (np.arange(start, start + count) / rate - late_s) % 1
    wave = 16000 * np.sin(2 * np.pi * hz * seconds) * (seconds < BEEP_S)
    return wave.astype(np.int16)[None]
