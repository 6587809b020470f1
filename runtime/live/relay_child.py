"""Reads SRT, and sends SRT and WHIP, through an ffmpeg process that is a pipe's other end."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av

from .ending_child import Ended
from .ffmpeg import WHIP
from .ffmpeg_child import Ffmpeg
from .whip_child import Endpoint

_LOST_PACKETS = re.compile(r"corrupt|RCV-DROPPED|RCV-LOSS|continuity", re.IGNORECASE)
_INNER = {
    # The script below names one address; what comes from there is nothing but a transport stream.
    "protocol_whitelist": "srt",
    "format_whitelist": "mpegts",
    "fpsprobesize": "0",
    "probesize": "1000000",
    "analyzeduration": "500000",
}
_READ = (
    "-protocol_whitelist pipe,srt -format_whitelist concat,mpegts -safe 0 -f concat -i pipe:{} "
    "-map 0:v? -map 0:a? -c copy -copyts -muxdelay 0 -muxpreload 0 -flush_packets 1 "
    "-f mpegts pipe:1"
)
_PROBE_BYTES = 32  # the least that ffmpeg looks at before it takes times as they are
_WRITE = (
    f"-probesize {_PROBE_BYTES} -analyzeduration 0 -fflags nobuffer -f nut -i pipe:0 "
    "-map 0 -c copy -flush_packets 1"
)
# An access unit of H.264 without a picture.
_DELIMITER = b"\0\0\0\1\x09\xf0" + bytes(_PROBE_BYTES)
_DELIMITERS = 2  # a muxer holds one back until it knows the next
_TICKS = 90000  # per second
_USUAL_LATENCY_S, _ROUND_TRIP_S, _LONGEST_TAIL_S = 0.12, 0.2, 2.0


class SrtInput:
    """What comes from an SRT address, as a file for libav to read.

    Args:
        relay: The arguments of a `Relay`.
        damaged: Called for each line of the log that means lost packets.
    """

    def __init__(self, relay: dict[str, Any], damaged: Callable[[], None]) -> None:
        options = {**_INNER, **relay["options"], **relay["secrets"]}
        lines = [f"option {name} {_quoted(value)}" for name, value in options.items()]
        self._listens = _listens(relay)
        script = "\n".join(["ffconcat version 1.0", f"file {_quoted(relay['url'])}", *lines, ""])

        def note(line: str) -> None:
            if _LOST_PACKETS.search(line):
                damaged()

        self._ffmpeg = Ffmpeg(
            relay["program"],
            lambda fd: _READ.format(fd).split(),
            script,
            sends=False,
            noted=note,
        )

    def read(self, count: int) -> bytes:
        """Returns what has come, at most that many bytes.

        Raises:
            Ended: Nothing more will come.
        """
        if data := self._ffmpeg.pipe.read(count):
            return data
        raise _of_one_side(self._ffmpeg.ended("its sender has ended the connection"), self._listens)


def _quoted(text: str) -> str:
    """Returns a word of a script of ffmpeg's."""
    return "'" + text.replace("'", r"'\''") + "'"


class RelayOutput:
    """A file for libav to write NUT to, which ffmpeg sends on.

    Args:
        relay: The arguments of a `Relay`.
        open_s: The longest that opening may take.
        close_s: The longest that finishing may take.
    """

    def __init__(self, relay: dict[str, Any], open_s: float, close_s: float) -> None:
        self._open_s, self._close_s = open_s, close_s
        self._listens = _listens(relay)
        self._tail_s = 0.0 if _is_whip(relay) else _tail_s(relay["options"])
        self._endpoint = Endpoint(relay["url"], relay["authorization"]) if _is_whip(relay) else None
        if self._endpoint:
            output = ["-f", "whip", self._endpoint.url]
        else:
            output = [*_options(relay["options"]), "-muxdelay", "0", "-muxpreload", "0"]
            output += ["-f", "mpegts", relay["url"]]
        # Options in a preset, as arguments can be read by every user of the machine.
        hidden = "".join(f"{name}={value}\n" for name, value in relay["secrets"].items())

        def arguments(fd: int) -> Sequence[str]:
            preset = ["-fpre", f"/dev/fd/{fd}"] if hidden else []
            return [*_WRITE.split(), *preset, *output]

        self._ffmpeg = Ffmpeg(relay["program"], arguments, hidden, sends=True)

    def write(self, data: Any) -> int:
        """Writes all of the data.

        Raises:
            Ended: ffmpeg has ended.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._ffmpeg.pipe.write(view) or 0 :]
        except OSError as error:
            raise self._why("the other end went away") from error
        return len(data)

    def connect(self, container: Any, stream: Any) -> None:
        """Returns when the other end has accepted the connection.

        ffmpeg connects once it has got a packet, so it gets some without a picture, which it
        drops, as it begins with a key frame. It expects the first frame right after them, at the
        rate of the stream.

        Raises:
            Ended: It has not.
        """
        begin = -math.ceil(_DELIMITERS * _TICKS / stream.average_rate) - _DELIMITERS
        for number in range(_DELIMITERS):
            packet = av.Packet(_DELIMITER)
            packet.stream, packet.time_base = stream, Fraction(1, _TICKS)
            packet.pts = packet.dts = begin + number
            packet.duration = 1
            container.mux(packet)
        if not self._ffmpeg.wait_until_open(self._open_s):
            self._ffmpeg.kill()
            raise self._why(f"no answer within {self._open_s:g} s")
        if not self._ffmpeg.is_open:
            raise self._why("it cannot be opened")

    def finish(self) -> None:
        """Waits until everything is sent.

        Raises:
            Ended: It was not.
        """
        time.sleep(self._tail_s)
        code = self._ffmpeg.finish(self._close_s - self._tail_s)
        if code is None:
            self._ffmpeg.kill()
            raise Ended("lost", f"it did not end within {self._close_s:g} s")
        if code not in (0, 255):  # 255: it ended in good order, as a signal asked it to
            raise self._why("it did not end in good order")

    def _why(self, otherwise: str) -> Ended:
        ended = self._ffmpeg.ended(otherwise)
        return (self._endpoint and self._endpoint.failure) or _of_one_side(ended, self._listens)


def _listens(relay: dict[str, Any]) -> bool:
    return bool(relay["options"].get("mode") == "listener")


def _of_one_side(ended: Ended, listens: bool) -> Ended:
    """Returns why it ended; who listens does so again at once, whoever was turned away."""
    return Ended("lost", ended.why) if listens and ended.cause == "refused" else ended


def _tail_s(options: dict[str, str]) -> float:
    """Returns how long the other end may hold back frames, which are lost if this one leaves."""
    asked = (int(options.get(name, "0")) for name in ("latency", "peerlatency"))
    return min(_LONGEST_TAIL_S, max(_USUAL_LATENCY_S, *(us / 1e6 for us in asked)) + _ROUND_TRIP_S)


def _is_whip(relay: dict[str, Any]) -> bool:
    return bool(relay["part"] == WHIP)


def _options(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"-{name}", value)]
