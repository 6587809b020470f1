"""Encodes the preview in a child process: each HR frame and its LR frame as H.264 or JPEG.

H.264 is in Annex B. Each frame becomes one, which depends at most on the one before it; a key frame
is made when the parent asks for one, and when the size changes. Pictures above `MAX_PIXELS` are
made smaller.
"""

from __future__ import annotations

from fractions import Fraction
from io import RawIOBase
from typing import Any

import numpy as np

from ....graphs.arrays import Image
from ...media import libav
from ...media.colour import BT709, FULL, LIMITED, SMPTE170M, Colour
from ...media.video_encoder_child import EncoderSettings, FrameEncoder, RgbFrame
from ...processes import messages

MAX_PIXELS = 2560 * 1440  # browsers decode this in time, and screens show little more
_MIN_SIDE = 32  # pixels: some decoders refuse less
_KEY_FRAMES = 300  # the longest run without a key; viewers that need one ask for it
_H264 = {
    "tune": "zerolatency",
    "forced-idr": "1",
    "g": str(_KEY_FRAMES),
    "threads": "2",  # slices; more of them cost bytes, and the engine needs the cores
}
_H264_OF = {
    "hr": {"preset": "ultrafast", "crf": "19", "x264-params": "scenecut=0:no-deblock=0:aq-mode=1"},
    # Small, and enlarged by the page: coding artefacts would be taken for the camera's.
    "lr": {"preset": "superfast", "crf": "10", "x264-params": "scenecut=0"},
}
_JPEG = {"qmin": "3", "qmax": "3"}  # of 1 (best) to 31
_H264_COLOUR = Colour(matrix=BT709, range=LIMITED, primaries=1, transfer=1)
_JPEG_COLOUR = Colour(matrix=SMPTE170M, range=FULL, primaries=1, transfer=1)  # as JFIF has it


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Answers each ``frame`` message by one of the same name, with all parts one after another.

    The message lists the formats that are wanted, and the size of each picture; each picture
    follows as a ``picture`` message. A part is described by picture ("hr", "lr"), format ("h264",
    "jpeg"), bytes, width, height, key and codec (as RFC 6381 writes it).
    """
    libav.quiet()
    encoders: dict[tuple[str, str], _Encoder] = {}
    while True:
        order, _ = messages.receive(inbox)
        parts: list[dict[str, Any]] = []
        data: list[bytes] = []
        for picture, (height, width) in order["pictures"].items():
            _, payload = messages.receive(inbox)
            image = np.frombuffer(payload, np.uint8).reshape(height, width, 3)
            for kind in order["formats"]:
                encoder = encoders.get((picture, kind))
                if encoder is None or encoder.size != (height, width):
                    encoder = encoders[picture, kind] = _Encoder(kind, picture, (height, width))
                packet, key = encoder.encode(image, order["key"])
                data.append(packet)
                part = {"picture": picture, "format": kind, "bytes": len(packet), "key": key}
                parts.append({**part, **encoder.described(packet)})
        messages.send(outbox, {"kind": "frame", "parts": parts}, b"".join(data))


class _Encoder:
    """Encodes one picture in one format, at one size."""

    def __init__(self, kind: str, picture: str, size: tuple[int, int]) -> None:
        self.size, self._kind = size, kind
        height, width = size
        scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        self._shown = (max(1, round(height * scale)), max(1, round(width * scale)))
        coded = (_even(self._shown[0]), _even(self._shown[1]))
        taken = coded if self._shown == size else size  # it is padded, or made smaller
        self._padding = ((0, taken[0] - height), (0, taken[1] - width), (0, 0))
        self._padded = taken != size
        self._rgb = RgbFrame(taken)
        self._encoder = FrameEncoder(_settings(kind, picture, coded), self._rgb)
        self._count = 0
        self._codec = ""

    def encode(self, image: Image, key: bool) -> tuple[bytes, bool]:
        """Returns an encoded frame, and whether it is a key frame."""
        if self._padded:
            image = np.pad(image, self._padding, mode="edge")
        self._rgb.put(image)
        packets = self._encoder.encode(self._count, key=key or self._count == 0)
        self._count += 1
        return b"".join(bytes(packet) for packet in packets), packets[0].is_keyframe

    def described(self, packet: bytes) -> dict[str, Any]:
        """Returns the codec, and the size to show: what is coded beyond it is padding."""
        if self._kind == "h264" and not self._codec:
            self._codec = _rfc6381(packet)
        return {"width": self._shown[1], "height": self._shown[0], "codec": self._codec}


def _settings(kind: str, picture: str, size: tuple[int, int]) -> EncoderSettings:
    h264 = kind == "h264"
    return EncoderSettings(
        encoder="libx264" if h264 else "mjpeg",
        size=size,
        pixel_format="yuv420p" if h264 else "yuvj420p",
        colour=_H264_COLOUR if h264 else _JPEG_COLOUR,
        time_base=Fraction(1, 30),
        rate=Fraction(30),
        options=_H264 | _H264_OF[picture] if h264 else _JPEG,
    )


def _even(side: int) -> int:
    return max(_MIN_SIDE, side + side % 2)


def _rfc6381(packet: bytes) -> str:
    """Returns avc1.PPCCLL from the sequence parameter set at the start of a packet."""
    start = packet.index(b"\x00\x00\x01\x67") + 4
    return f"avc1.{packet[start : start + 3].hex()}"
