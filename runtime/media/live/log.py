"""What libav says of a live source while it is read: some damage is told in no other way.

Runs in the child. It counts the lines that mean damage and keeps the last one that explains an
end; nothing is written anywhere. It does not judge frames.
"""

from __future__ import annotations

import logging
import re

import av

# Warnings that mean that pixels are missing. Errors of a demuxer or decoder always do.
_DAMAGE = re.compile(
    r"RTP: missed|corrupt|EOI missing|error while decoding|concealing|size mismatch|truncated",
    re.IGNORECASE,
)
# What a playlist may not open: by the bounds that were set, and by those hls has of its own.
_DENIED = re.compile(r"not on whitelist|loading first segment '(?!https?://)")
# Their errors are about the connection, not about pictures.
_TRANSPORTS = frozenset(
    f"libav.{name}" for name in ("tcp", "udp", "tls", "http", "https", "httpproxy", "hls", "rtmp")
)


class LiveLog(logging.Handler):
    """Takes libav's lines from now on.

    Attributes:
        damage: How many lines that mean damage there were.
        denied: Something that is not allowed was to be opened.
        last_error: The last line of an error, or "".
    """

    def __init__(self) -> None:
        super().__init__()
        self.damage = 0
        self.denied = False
        self.last_error = ""
        logger = logging.getLogger("libav")
        logger.addHandler(self)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line; called by ``logging``, on whatever thread libav is on."""
        text = record.getMessage().strip()
        self.denied = self.denied or bool(_DENIED.search(text))
        error = record.levelno >= logging.ERROR
        if error and text:
            self.last_error = text
        if (error and record.name not in _TRANSPORTS) or _DAMAGE.search(text):
            self.damage += 1
