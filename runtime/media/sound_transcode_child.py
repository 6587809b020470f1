"""Re-encodes one stream of sound, sample for sample at its times.

Runs in the child. Decoded sound is placed on a time line of the encoder's samples: long gaps stay
gaps, short ones and damaged stretches become silence of the same length, and cuts are exact to the
sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from .stream_rules_child import CopiedStream, TimeWindow

_UNDECODABLE = av.error.FFmpegError, ValueError
_BITS_A_CHANNEL = {"aac": 112_000, "libopus": 80_000}
_DRIFT_S = Fraction(1, 25)  # smaller differences come from coarsely stored times
_SILENCE_S = 1  # a longer gap is left without packets
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")


class TranscodedStream(CopiedStream):
    """Re-encodes the sound of one stream of the source.

    Args:
        template: The stream of the source.
        part: The part to keep, to the sample.
        codec: libav's name of the encoder.
        drift_s: By how much sound may leave the times of its packets before it is moved there.
        form: The sample rate and channel layout to encode; None for those of the source, as nearly
            as the encoder takes them.

    Raises:
        ValueError, av.error.FFmpegError: The encoder does not take sound of this kind.
    """

    def __init__(
        self,
        template: Any,
        part: TimeWindow,
        codec: str,
        drift_s: Fraction = _DRIFT_S,
        form: tuple[int, str] | None = None,
    ) -> None:
        super().__init__(template, part)
        self._drift_s = drift_s
        self._codec, self._decoder = codec, template.codec_context
        self._rate = form[0] if form else _nearest_rate(codec, self._decoder.sample_rate)
        self._encoded_format = _sample_format(codec, self._decoder)
        self._layout = (
            form[1] if form else _layout(codec, self._rate, self._encoded_format, self._decoder)
        )
        # Not planar: PyAV miscounts the planes of eight channels.
        self._format = av.AudioFormat(self._encoded_format).packed.name
        self.time_base = Fraction(1, self._rate)
        self._shift_s = part.shift
        first, end = part.start, part.end
        self._first = None if first is None else round((first - part.shift) * self._rate)
        self._until = None if end is None else round((end - part.shift) * self._rate)
        self._run: _Run | None = None
        self._damaged = False  # since the last frame
        self._samples: Any = None  # (n, channels), not encoded yet
        self._at: int | None = None  # position of the first of them, in samples of the output

    def placed(self, packet: Any) -> list[Any]:
        """Decodes a packet of the source; returns the packets that the encoder has ready."""
        self._advance(packet)
        try:
            frames = self._decoder.decode(packet)
        except _UNDECODABLE:  # a damaged packet does not cost the others
            self._refused, self._damaged = self._refused + 1, True
            return []
        return [packet for frame in frames for packet in self._take(frame)]

    def rest(self) -> list[Any]:
        """Returns the packets still inside the decoder and the encoder."""
        made: list[Any] = []
        try:
            frames = self._decoder.decode(None)
        except _UNDECODABLE:
            frames = []
        for frame in frames:
            made += self._take(frame)
        made += self._end_run()
        if self._samples is not None and len(self._samples):
            made += self._encoded(self._samples)
            self._samples = None
        return made + self._for_output(self._stream.encode(None) if self._at is not None else [])

    def _add(self, output: OutputContainer) -> Any:
        stream: Any = output.add_stream(self._codec, rate=self._rate)
        _set(stream.codec_context, self._codec, self._encoded_format, self._layout)
        stream.time_base = stream.codec_context.time_base = self.time_base
        return stream

    def _take(self, frame: Any) -> list[Any]:
        made: list[Any] = []
        run, at = self._run, None
        if frame.pts is not None:
            at = round((frame.pts * frame.time_base - self._shift_s) * self._rate)
        if run is not None and not run.continues(frame, at, exactly=self._damaged):
            made += self._end_run()
            run = None
        if run is None:
            begin = at if at is not None else self._end_of_samples()
            run = self._run = _Run(
                frame, begin, self._format, self._layout, self._rate, self._drift_s
            )
        self._damaged = False
        for position, samples in run.resample(frame):
            made += self._place(position, samples)
        return made

    def _end_run(self) -> list[Any]:
        run, self._run = self._run, None
        if run is None:
            return []
        return [packet for at, samples in run.end() for packet in self._place(at, samples)]

    def _end_of_samples(self) -> int:
        return 0 if self._at is None else self._at + len(self._samples)

    def _place(self, at: int, samples: Any) -> list[Any]:
        """Places samples on the time line, and encodes the frames that are full."""
        samples, at = _between(samples, at, self._first, self._until)
        if not len(samples):
            return []
        made: list[Any] = []
        if self._at is None:
            self._at, self._samples = at, samples[:0]
        gap = at - self._end_of_samples()
        if gap < 0:
            samples = samples[-gap:]
        elif gap > _SILENCE_S * self._rate:
            made += self._full_frames(fill=True)
            self._at = at
        elif gap:
            silence = np.zeros((gap, samples.shape[1]), samples.dtype)
            self._samples = np.concatenate((self._samples, silence))
        self._samples = np.concatenate((self._samples, samples))
        return made + self._full_frames()

    def _full_frames(self, *, fill: bool = False) -> list[Any]:
        """Encodes all full frames; with ``fill``, pads the rest with silence and encodes it too."""
        size, samples = self._stream.codec_context.frame_size or 1024, self._samples
        if fill and len(samples) % size:
            samples = np.pad(samples, ((0, -len(samples) % size), (0, 0)))
        count = len(samples) // size * size
        made = [
            packet
            for begin in range(0, count, size)
            for packet in self._encoded(samples[begin : begin + size])
        ]
        self._samples = samples[count:]
        return made

    def _encoded(self, samples: Any) -> list[Any]:
        data = np.ascontiguousarray(samples.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(data, format=self._format, layout=self._layout)
        assert self._at is not None
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._at, self.time_base
        self._at += len(samples)
        return self._for_output(self._stream.encode(frame))

    def _for_output(self, packets: list[Any]) -> list[Any]:
        for packet in packets:
            packet.stream = self._stream
        return packets


class _Run:
    """A run of frames of one kind without a gap, resampled for the encoder.

    Args:
        frame: The first frame.
        at: Its start, in samples of the output.
        format, layout, rate: The encoder's sample format, channel layout and sample rate.
        drift_s: The largest difference of times within a run.
    """

    def __init__(
        self, frame: Any, at: int, format: str, layout: str, rate: int, drift_s: Fraction
    ) -> None:
        self._drift_s = drift_s
        self._kind = _kind(frame)
        self._resampler = av.AudioResampler(format=format, layout=layout, rate=rate)
        self._start, self._rate = at, rate
        self._samples_in = self._samples_out = 0

    def continues(self, frame: Any, at: int | None, *, exactly: bool) -> bool:
        """Returns whether a frame at that sample continues the run, to a tick or to the drift."""
        if _kind(frame) != self._kind:
            return False
        due = self._start + round(Fraction(self._samples_in * self._rate, frame.sample_rate))
        if at is None:
            return True
        tick = 2 * frame.time_base * self._rate
        return abs(at - due) <= (max(1, tick) if exactly else self._drift_s * self._rate)

    def resample(self, frame: Any) -> Iterator[tuple[int, Any]]:
        self._samples_in += frame.samples
        frame.pts = None
        yield from self._placed(self._resampler.resample(frame))

    def end(self) -> Iterator[tuple[int, Any]]:
        yield from self._placed(self._resampler.resample(None))

    def _placed(self, frames: list[Any]) -> Iterator[tuple[int, Any]]:
        for frame in frames:
            if frame is None or not frame.samples:
                continue
            samples = frame.to_ndarray().reshape(frame.samples, -1)
            yield self._start + self._samples_out, samples
            self._samples_out += frame.samples


def _kind(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _between(samples: Any, at: int, first: int | None, until: int | None) -> tuple[Any, int]:
    if until is not None:
        samples = samples[: max(0, until - at)]
    if first is not None and at < first:
        return samples[first - at :], first
    return samples, at


def _nearest_rate(codec: str, rate: int) -> int:
    """Returns the rate itself if the encoder takes it, else the next higher one."""
    if rate <= 0:
        raise ValueError(f"{rate = }")
    rates = sorted(av.Codec(codec, "w").audio_rates or [rate])
    return next((one for one in rates if one >= rate), rates[-1])


def _sample_format(codec: str, decoder: Any) -> str:
    """Returns the encoder's finest sample format that is not finer than the decoder's."""
    formats = [one.name for one in av.Codec(codec, "w").audio_formats or ()]
    coarse = decoder.format is not None and decoder.format.bytes <= 2
    wanted = ("s16", "s16p") if coarse else ("fltp", "flt", "s32", "s32p")
    return str(next((name for name in wanted if name in formats), formats[0]))


def _layout(codec: str, rate: int, format: str, decoder: Any) -> str:
    """Returns the decoder's channel layout, or the next smaller one that the encoder takes."""
    channels = max(1, decoder.channels)
    for layout in (decoder.layout.name, *reversed(_LAYOUTS[:channels])):
        context: Any = av.CodecContext.create(codec, "w")
        try:
            context.sample_rate, context.time_base = rate, Fraction(1, rate)
            _set(context, codec, format, layout)
            context.open()
        except (ValueError, av.error.FFmpegError):
            continue
        return str(layout)
    raise ValueError(f"{codec} takes none of {channels} channels")


def _set(context: Any, codec: str, format: str, layout: str) -> None:
    context.format, context.layout = format, layout
    if codec in _BITS_A_CHANNEL:
        context.bit_rate = _BITS_A_CHANNEL[codec] * context.channels
