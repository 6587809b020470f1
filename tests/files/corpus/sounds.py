"""Sounds of the corpus: noise, so that no two packets are alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

# Containers that hold one stream of sound, or ask for one.
ONE_SOUND = ("swf", "dv", "flv", "gxf", "smjpeg", "roq", "3gp", "f4v", "rm")
_RATES = {
    "nellymoser": (22050, 44100),
    "adpcm_swf": (22050, 44100),
    "adpcm_ima_wav": (22050, 44100),
    "adpcm_ms": (22050, 44100),
    "adpcm_yamaha": (22050, 44100),
    "g722": (16000,),
    "g723_1": (8000,),
    "g726": (8000,),
    "real_144": (8000,),
    "roq_dpcm": (22050,),
    "pcm_alaw": (8000, 44100),
    "pcm_mulaw": (8000, 44100),
    "+libgsm_ms": (8000,),
    "+libspeex": (16000,),
    "libopus": (48000,),
    "opus": (48000,),
    "ac3": (48000, 44100),
    "eac3": (48000,),
    "libmp3lame": (44100, 22050),
}
_ALWAYS_48K = ("pcm_dvd", "pcm_bluray", "+s302m", "+truehd", "+mlp", "+dca", "pcm_s24le")
_MONO = ("nellymoser", "g722", "g723_1", "g726", "real_144", "+libgsm_ms")
_STEREO = ("roq_dpcm", "opus", "vorbis", "pcm_s16le", *_ALWAYS_48K)
_BIT_RATES = {"wmav1": 96_000, "wmav2": 96_000, "g723_1": 6300}
_EXPERIMENTAL = ("opus", "vorbis", "dca", "truehd", "mlp")


def shape_of(codec: str, suffix: str, chance: random.Random) -> tuple[int, int]:
    """A sample rate and number of channels that the encoder takes, in such a file."""
    if suffix in ("gxf", "mxf", "dv"):
        return 48000, 1 if suffix == "gxf" else 2
    rates = (48000,) if codec in _ALWAYS_48K else _RATES.get(codec, (48000, 44100))
    channels = (1,) if codec in _MONO else (2,) if codec in _STEREO else (1, 2)
    return chance.choice(rates), chance.choice(channels)


def add_sound(output: Any, codec: str, rate: int, channels: int) -> Any:
    """The stream of an encoder of libav's; ffmpeg's own get plain samples here."""
    options = {"strict": "experimental"} if codec in _EXPERIMENTAL else {}
    stream = output.add_stream("pcm_s16le" if codec[0] == "+" else codec, rate, options=options)
    if codec in _BIT_RATES:
        stream.bit_rate = _BIT_RATES[codec]
    stream.layout = "stereo" if channels == 2 else "mono"
    return stream


def sound_packets(stream: Any, start: Fraction, seconds: Fraction, seed: int) -> Iterator[Any]:
    """Packets of noise, from that start on, in seconds."""
    rate, layout = stream.rate, stream.layout.name
    channels = 2 if layout == "stereo" else 1
    samples = np.random.default_rng(seed)
    convert = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
    first = round(start * rate)
    for at in range(0, max(1024, int(seconds * rate)), 1024):
        noise = samples.uniform(-0.3, 0.3, (channels, 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, first + at, Fraction(1, rate)
        for converted in convert.resample(frame):
            yield from stream.encode(converted)
    yield from stream.encode(None)
