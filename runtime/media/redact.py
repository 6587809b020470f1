"""Removes credentials from addresses in text.

All text for a user, a log, a metric or a page passes through here, as libav repeats addresses word
for word in its errors. Secrets are found by their place in a URL: a password alone is not found.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_END = r"\s'\"<>"  # what ends a URL in running text

_USERINFO = re.compile(rf"({_SCHEME})[^\s/?#]+@")
# A password with "/", "?" or "#" in it ends the host part too early: what follows the colon is then
# no port, and the true host comes after a later "@".
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
    """Returns the text with the secrets of every URL in it replaced by ``***``.

    Secrets are user name and password, the values of query keys that sound like a secret, the last
    part of the path of an RTMP address (its stream key), and authorisation headers. Redacting text
    again changes nothing.
    """
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _BROKEN_USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _STREAM_KEY.sub(rf"\1{HIDDEN}", text)
    return _HEADER.sub(rf"\1{HIDDEN}", text)
