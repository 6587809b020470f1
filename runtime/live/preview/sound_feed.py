"""The sound of the preview: encoded while a viewer listens, and only then."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ....errors import StreamDiffVSRError
from ...processes.child import Child
from ..sound import Sound, SoundPacket, SoundStream
from ..sound_queue import in_messages
from .viewers import Audience

_FAILURE = "could not encode the sound of the preview"
_DEADLINE_S = 10.0
_LINGER_S = 10.0  # how long the child outlives the last listener
_PAUSE_S = 5.0  # after a failure
_MOST_PACKETS = 200
_MEMORY_BYTES = 2 << 30


class SoundFeed:
    """Encodes the first stream of sound for the viewers that listen.

    Args:
        audience: The viewers.
        deliver: Receives each message for them, in the feed's thread.
        tell: Receives one line when sound cannot be encoded.
    """

    def __init__(
        self, audience: Audience, deliver: Callable[[bytes], None], tell: Callable[[str], None]
    ) -> None:
        self._audience, self._deliver, self._tell = audience, deliver, tell
        self._changed = threading.Condition()
        self._waiting: deque[SoundPacket] = deque(maxlen=_MOST_PACKETS)
        self._closed = False
        self._child: Child | None = None
        self._stream: SoundStream | None = None  # that the child encodes
        self._told = False
        self._thread = threading.Thread(target=self._run, name="preview-sound", daemon=True)
        self._thread.start()

    def hear(self, sound: Sound) -> None:
        """See `SoundSink`."""
        if not isinstance(sound, SoundPacket) or sound.stream.number or not self._listened:
            return
        with self._changed:
            self._waiting.append(sound)
            self._changed.notify()

    def close(self, deadline_s: float) -> None:
        """Ends the child and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if (child := self._child) is not None:
            child.close()
        self._thread.join(deadline_s)

    @property
    def _listened(self) -> bool:
        return self._audience.listening

    def _run(self) -> None:
        while (packets := self._next()) is not None:
            try:
                self._encode(packets)
            except StreamDiffVSRError as error:
                self._end_child()
                if self._closed:
                    break
                if not self._told:
                    self._told = True
                    self._tell(f"{error}; trying again")
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _PAUSE_S)
                    self._waiting.clear()
        self._end_child()

    def _next(self) -> list[SoundPacket] | None:
        """Waits for packets of one stream; None when closed. Ends a child that is long unheard."""
        while True:
            with self._changed:
                if not self._waiting and not self._closed:
                    self._changed.wait(_LINGER_S if self._child else None)
                if self._closed:
                    return None
                packets: list[SoundPacket] = []
                while self._waiting and self._waiting[0].stream == self._waiting[-1].stream:
                    packets.append(self._waiting.popleft())
                if not packets and self._waiting:  # another stream follows
                    packets.append(self._waiting.popleft())
            if packets:
                return packets
            if not self._listened:
                self._end_child()

    def _encode(self, packets: list[SoundPacket]) -> None:
        child = self._child_for(packets[0].stream)
        for message in in_messages(packets, 0.0):
            child.send(*message)
            header, payload = child.receive()
            if header["packets"]:
                self._deliver(_message(header, bytes(payload)))
        self._told = False

    def _child_for(self, stream: SoundStream) -> Child:
        if self._child is None or self._stream != stream:
            self._end_child()
            template = base64.b64encode(stream.template).decode()
            child = Child(
                "runtime.live.preview.sound_feed_child",
                {"template": template},
                failure=_FAILURE,
                deadline_s=_DEADLINE_S,
                memory_bytes=_MEMORY_BYTES,
            )
            self._child, self._stream = child, stream
            if self._closed:  # close() may have run before the child existed
                child.close()
        return self._child

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


def _message(header: dict[str, Any], data: bytes) -> bytes:
    """Packs Opus packets as pictures are packed: a length, a JSON header, the packets."""
    about = {
        "format": "sound",
        "codec": "opus",
        "rate": header["rate"],
        "channels": header["channels"],
        "packets": [{"seconds": seconds, "bytes": size} for seconds, size in header["packets"]],
    }
    text = json.dumps(about).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, data))
