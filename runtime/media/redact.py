"""Text without the credentials of the addresses in it.

Everything that can reach a user, a log, a metric or a page goes through here: libav repeats an
address word for word in its errors. It finds secrets by where they stand in a URL, so it knows
nothing of a password that stands alone.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_END = r"\s'\"<>"  # what ends a URL in running text

_USERINFO = re.compile(rf"({_SCHEME})[^\s/?#]+@")
# A password with "/", "?" or "#" in it ends the host part too early: what follows the colon is then
# no port, and the true host comes behind a later "@".
_BROKEN_USERINFO = re.compile(
    rf"({_SCHEME})(?!\*\*\*@)[^\s/?#@\[\]]*:(?=[^\s/?#@]*[^\s/?#@\d])\S*@(?=[^\s@])"
)
_SECRET_KEY = r"[\w.~%-]*(?:token|key|pass|pwd|secret|sig|auth|user|cred|jwt|session)[\w.~%-]*"
_QUERY = re.compile(rf"([?&;]{_SECRET_KEY}=)[^&#{_END}]+", re.IGNORECASE)
_STREAM_KEY = re.compile(
    rf"(rtmp[a-z]*://[^/?#{_END}]+/(?:[^/?#{_END}]+/)*)[^/?#{_END}]*[^/?#{_END}:.,;)]",
    re.IGNORECASE,
)
_HEADER = re.compile(r"((?:authorization|cookies?)\s*[:=]\s*)[^\r\n]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with the secrets of every URL in it replaced by ``***``.

    These are: user name and password, the values of query keys that sound like a secret, the last
    part of the path of an RTMP address (its stream key), and authorisation headers. What has been
    redacted once stays as it is.
    """
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _BROKEN_USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _STREAM_KEY.sub(rf"\1{HIDDEN}", text)
    return _HEADER.sub(rf"\1{HIDDEN}", text)
