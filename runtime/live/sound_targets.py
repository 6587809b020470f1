"""The sound that each kind of target takes: one row of a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Takes:
    """What a target takes as sound.

    Attributes:
        copied: The codecs that its players know, by libav's names; other sound is encoded.
        encoder: libav's encoder for that.
        most: The largest number of streams.
        form: The only sample rate and channel layout that it takes; None for any.
    """

    copied: tuple[str, ...]
    encoder: str = "aac"
    most: int = 8
    form: tuple[int, str] | None = None


_BROADCAST = ("aac", "mp2", "mp3", "ac3", "eac3")
# By the kind of a target, else by libav's name of its muxer.
TAKES = {
    "mp4": Takes(("aac", "mp3", "ac3", "eac3", "opus")),
    "mov": Takes(("aac", "mp3", "ac3", "eac3", "pcm_mulaw", "pcm_alaw", "pcm_s16le")),
    "matroska": Takes(
        (*_BROADCAST, "opus", "vorbis", "flac", "pcm_mulaw", "pcm_alaw", "pcm_s16le")
    ),
    "mpegts": Takes(_BROADCAST),
    "hls": Takes(("aac", "mp3", "ac3", "eac3")),
    "flv": Takes(("aac",), most=1),
    "rtsp": Takes(("aac", "opus", "pcm_mulaw", "pcm_alaw")),
    "srt": Takes(_BROADCAST),
    "whip": Takes(("opus",), "libopus", most=1, form=(48000, "stereo")),
}


def takes_of(kind: str, muxer: str) -> Takes | None:
    """Returns what targets of that kind and muxer take; None if they take no sound."""
    return TAKES.get(kind) or TAKES.get(muxer)
