"""Captures a live source: decodes it at its pace, skips to a key frame after damage, and keeps the
newest frame in a mailbox.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import Any, Literal, NoReturn

import av

from ...errors import StreamDiffVSRError
from ..media.libav import MAX_PIXELS, MAX_SIDE
from ..processes import messages
from .ending_child import Ended
from .mailbox_child import Decoded, FrameMailbox
from .opening_child import LiveLog, open_live, read_failure
from .sound_tap_child import SoundTap

Verdict = Literal["whole", "damaged", "drop"]


class Quarantine:
    """Judges the frames of one stream, from the moment it is joined."""

    def __init__(self) -> None:
        self._joined = False
        self._dirty = False
        self._begin: int | None = None  # pts of the first key frame
        self._clean_from: int | None = None  # pts of the key frame that ended the last damage

    @property
    def joined(self) -> bool:
        """Returns whether the first key frame has come."""
        return self._joined

    def packet(self, *, key: bool, pts: int | None) -> bool:
        """Notes the next packet; returns whether decoding it is of any use."""
        if key:
            if not self._joined:
                self._joined, self._begin = True, pts
            elif self._dirty:
                self._clean_from = pts
            self._dirty = False
        return self._joined

    def join_anyhow(self) -> None:
        """Goes on without a key frame, as some streams never have one; no frame counts as whole."""
        self._joined = self._dirty = True

    def trouble(self) -> None:
        """Notes damage at the last packet, or after it."""
        self._dirty = True

    def judge(self, pts: int | None, *, corrupt: bool) -> Verdict:
        """Returns the verdict on the next decoded frame."""
        if corrupt:
            self._dirty = True
        if _before(pts, self._begin):
            return "drop"
        return "damaged" if self._dirty or _before(pts, self._clean_from) else "whole"


def _before(pts: int | None, limit: int | None) -> bool:
    """Returns whether a frame is shown before a key frame, though it is decoded after it."""
    return pts is not None and limit is not None and pts < limit


_STEP_S = 1 / 25  # where frames have no times
_MAX_STEP_S = 10.0  # a larger one is a jump of the source's clock, not a pause


class Pace:
    """Waits until frames are due, by a clock that starts with the first one.

    Args:
        mailbox: Its `alive` counts silence; waiting here does not count as silence.
    """

    def __init__(
        self,
        mailbox: FrameMailbox,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._mailbox, self._clock, self._sleep = mailbox, clock, sleep
        self._due: float | None = None
        self._last: float | None = None

    def wait(self, seconds: float | None) -> None:
        """Returns when the frame of that time is due."""
        now = self._clock()
        step = _STEP_S
        if seconds is not None and self._last is not None:
            step = seconds - self._last
        self._last = seconds
        if self._due is None or not 0 <= step <= _MAX_STEP_S:
            self._due = now
            return
        self._due += step
        if self._due > now:
            self._mailbox.alive = None
            self._sleep(self._due - now)
            self._mailbox.alive = self._clock()


_KEY_FRAME_S = 10.0  # cameras send one sooner
_UNDECODABLE_S = 1.0  # what a change of codec looks like: only opening again helps
_MAX_READ_ERRORS = 32  # in a row
_LAST_FRAME_S = 5.0


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Plays the source to its end, reports the end, and waits to be killed."""
    outlet, asked = FrameMailbox(outbox), threading.Event()
    threading.Thread(target=_listen, args=(inbox, outlet, asked), daemon=True).start()
    outlet.send({"kind": "ready"})
    asked.wait()
    end = _play(arguments, outlet)
    outlet.send({"kind": "end", "cause": end.cause, "why": end.why, "remedy": end.remedy})
    threading.Event().wait()  # a pipe that closes now could cost the parent the last messages


def _play(arguments: dict[str, Any], outlet: FrameMailbox) -> Ended:
    """Hands out frames as long as there are any; returns why there are no more."""
    try:
        _Player(arguments, outlet).play()
    except Ended as error:
        end = error
    except StreamDiffVSRError as error:
        end = Ended("hopeless", error.why or error.what, error.remedy)
    except MemoryError:
        end = Ended("lost", "it needs more memory than allowed")
    except Exception as error:
        end = Ended("lost", f"{type(error).__name__}: {error}")
    with contextlib.suppress(Exception):  # its error has just been reported
        outlet.finish(_LAST_FRAME_S)
    return end


def _listen(inbox: RawIOBase, outlet: FrameMailbox, asked: threading.Event) -> None:
    """Obeys the parent; when it ends, this process ends, even inside libav."""
    try:
        while True:
            header, _ = messages.receive(inbox)
            if header["kind"] == "open":
                asked.set()
            else:
                outlet.give_back(header["generation"], header["slot"])
    finally:
        os._exit(1)


class _Player:
    def __init__(self, arguments: dict[str, Any], outlet: FrameMailbox) -> None:
        self._arguments, self._outlet = arguments, outlet
        self._log = LiveLog()
        self._index = 0
        self._whole_frames = arguments["kind"] == "test"  # its packets are not marked as such

    def play(self) -> NoReturn:
        """Hands out frames until an exception ends it."""
        while True:
            container, stream, transport = open_live(
                self._arguments, self._log, lambda: self._outlet.send({"kind": "described"})
            )
            paced = self._arguments["kind"] in ("file", "hls") or container.duration is not None
            pace = Pace(self._outlet) if paced else None
            codec = stream.codec_context.name
            codec = "rawvideo" if codec == "wrapped_avframe" else codec  # a generated picture
            self._outlet.send({"kind": "opened", "codec": codec, "transport": transport})
            before = self._index
            sound = self._sound(container, stream)
            with container:
                self._decode(container, stream, pace, sound)
            if not self._arguments["loop"] or self._index == before:
                raise Ended("ended", "it ended")

    def _sound(self, container: Any, stream: Any) -> SoundTap:
        """Returns what sends the sound of a source that has just been opened."""
        if self._log.sound_refused:
            why = "its server describes it, and does not send it"
            self._outlet.send({"kind": "sound_lost", "number": 0, "why": why})
        return SoundTap(container, stream, self._outlet.send, wanted=self._arguments["sound"])

    def _decode(self, container: Any, stream: Any, pace: Pace | None, sound: SoundTap) -> None:
        quarantine, failing_since = Quarantine(), None
        joined_by = time.monotonic() + _KEY_FRAME_S
        seen, self._outlet.alive = self._log.damage, time.monotonic()
        for packet in self._packets(container, [stream, *sound.streams]):
            if packet is not None and packet.stream.index != stream.index:
                damage = self._log.damage
                sound.take(packet)
                self._log.damage = damage  # what its decoder complains of is not in the picture
                continue
            now = self._outlet.alive = time.monotonic()
            self._outlet.arrivals.note(now)
            if packet is None:
                quarantine.trouble()
                continue
            flush, key = packet.size == 0, packet.is_keyframe or self._whole_frames
            if not flush and not quarantine.packet(key=key, pts=packet.pts):
                if now > joined_by:
                    quarantine.join_anyhow()
                continue
            frames, failed = _decoded(packet)
            if failed or packet.is_corrupt or self._log.damage > seen:
                quarantine.trouble()
            seen = self._log.damage
            failing_since = (failing_since or now) if failed else None
            if failing_since is not None and now - failing_since > _UNDECODABLE_S:
                raise Ended("lost", "its frames cannot be decoded any more; has its codec changed?")
            for frame in frames:
                self._hand_out(frame, stream, quarantine, pace)

    def _packets(self, container: Any, streams: list[Any]) -> Iterator[Any]:
        """Yields packets, then one for each flush; None for a stretch that could not be read."""
        errors_in_a_row = 0
        while True:
            try:
                for packet in container.demux(streams):
                    errors_in_a_row = 0
                    yield packet
                if self._log.denied:
                    raise read_failure(EOFError(), self._log)
                return
            except Ended:
                raise
            except (av.error.InvalidDataError, IndexError) as error:
                errors_in_a_row += 1
                if errors_in_a_row == _MAX_READ_ERRORS:
                    raise read_failure(error, self._log) from error
                yield None
            except Exception as error:
                raise read_failure(error, self._log) from error

    def _hand_out(self, frame: Any, stream: Any, quarantine: Quarantine, pace: Pace | None) -> None:
        verdict = quarantine.judge(frame.pts, corrupt=frame.is_corrupt)
        if verdict == "drop":
            return
        _check_size(frame)
        base = frame.time_base or stream.time_base
        seconds = None if frame.pts is None or not base else float(frame.pts * base)
        if pace:
            pace.wait(seconds)
        self._outlet.offer(
            Decoded(frame, seconds, time.monotonic(), self._index, verdict == "damaged")
        )
        self._index += 1


def _decoded(packet: Any) -> tuple[list[Any], bool]:
    """Returns the frames, and whether decoding failed."""
    try:
        return packet.decode(), False
    except EOFError:
        return [], False
    except MemoryError:
        raise
    except Exception:  # AttributeError and IndexError come out of libav's depths too
        return [], True


def _check_size(frame: Any) -> None:
    if max(frame.width, frame.height) > MAX_SIDE or frame.width * frame.height > MAX_PIXELS:
        raise Ended(
            "refused",
            f"its frames are {frame.width}x{frame.height}, and at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS >> 20} megapixels are read",
        )
