"""Encodes the sound of the preview as Opus in a child process, with the times that it had."""

from __future__ import annotations

import io
from io import RawIOBase
from typing import Any

import av

from ...media import libav
from ...processes import messages
from ..sound_mux_child import Track, open_template
from ..sound_targets import Takes

_OPUS = Takes((), "libopus")


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Answers each ``sound`` message by one of the same name, with what is ready by then.

    Both list packets, and have their data one after another: [number, seconds, duration, bytes] in
    the message, [seconds, bytes] in the answer.
    """
    libav.quiet()
    file = open_template(arguments["template"])
    with av.open(io.BytesIO(), "w", format="matroska") as unused:  # opens the encoder
        track = Track(file.streams.audio[0], _OPUS, "matroska")
        track.join(unused)
        unused.start_encoding()
        while True:
            order, payload = messages.receive(inbox)
            listed, data, start = [], [], 0
            for _, seconds, duration, size in order["packets"]:
                part, start = bytes(payload[start : start + size]), start + size
                for packet in track.placed(part, seconds, duration):
                    base = packet.time_base or packet.stream.time_base
                    data.append(bytes(packet))
                    listed.append([float(packet.pts * base), packet.size])
            context = unused.streams.audio[0].codec_context
            about = {"rate": context.sample_rate, "channels": context.channels}
            messages.send(outbox, {"kind": "sound", "packets": listed, **about}, b"".join(data))
