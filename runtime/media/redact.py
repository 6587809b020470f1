"""Removes credentials from addresses in text.

All text for a user, a log, a metric or a page passes through here, as libav repeats addresses word
for word in its errors. A secret is found by its place: in user info, and in a query or fragment
wherever a value is not plainly something else. Paths are shown, except for what is written as
``key=value`` or ``user:password`` and for parts that look random. A password alone is not found in
running text; where its address is known, :func:`secrets_in` names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

HIDDEN = "***"
ESCAPES = "write % / ? # @ and : in a password as %25 %2F %3F %23 %40 and %3A"

_SHORTEST_SECRET = 4  # a shorter one is a part of too many words
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_ADDRESS = re.compile(rf"({_SCHEME})(\S+)")
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_AFTER = "'\">)],.;:"  # ends an address in a sentence
_LIKE_A_HOST = re.compile(
    r"(?:(?:\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)+|localhost)(?::\d+)?|[\w-]+:\d+)(?=[/?#]|$)"
)
# A user name and password without the scheme before them, or with one slash; not a drive.
_BARE_USERINFO = re.compile(
    r"(?:(?<=[\s'\"(=])|^)(?![A-Za-z]:[\\/])(?=[^\s/@:]*[A-Za-z])[^\s/@:'\"(]+:(?!//)\S*@(?=[\w\[])"
)
_BARE_ADDRESS = re.compile(r"(?![A-Za-z]:[\\/])([A-Za-z][A-Za-z0-9+.-]*:/)?[^/@:]*:.*@", re.DOTALL)

_SECRET = (
    r"token|key|pass|pwd|secret|sig|auth|us(?:e)?r|cred|jwt|sess|login|code$|pin$|hash|hmac|nonce|"
    r"otp|ticket|access|licen[cs]e|account"
)
_SECRET_KEY = re.compile(rf"{_SECRET}|(?:p|u|k|pw|pas|sid|uid|id)$", re.IGNORECASE)
_SECRET_WORD = re.compile(
    r"(?:[a-z]+[-_])?(?:tokens?|keys?|apikey|pass|passw\w*|passphrase|pwd|secrets?|sig|signature|auth|"
    r"authorization|credentials?|jwt|session|sid|login|pin|code)"
)
_LOOSE_PAIR = re.compile(
    rf"([?&;][\w.~%-]*(?:{_SECRET.replace('$', '')})[\w.~%-]*=|(?:(?<=[\s'\"_/,(])|^)"
    r"[\w.~%-]*(?:token|passw|pwd|secret)[\w.~%-]*=)[^&#\s'\"<>]+",
    re.IGNORECASE,
)
_PATH_KEY = re.compile(r"(?:(?<=[/_;,&])|^)([A-Za-z][A-Za-z0-9.-]*)(?:=|%3D)", re.IGNORECASE)
_HEADER = re.compile(r"((?:authorization|cookies?)\s*[:=]\s*)[^\r\n]+", re.IGNORECASE)
_BEARER = re.compile(r"\b((?:Basic|Bearer|Digest) )(?=\S*[\d=])[\w+/=.~-]{6,}", re.IGNORECASE)

# Keys that say what is wanted of a stream; their values are shown if they are short and simple.
_HARMLESS_KEYS = """
    audio bitrate bufsize buffer_size camera channel codec container dscp fifo_size format fps
    framerate h height index lang language latency listen live localaddr localport mode n
    name number overrun_nonfatal page pbkeylen pkt_size port profile profileid protocol proto
    quality resolution seq start stream streamtype subtype t time timeout transport transportmode
    ttl type unicast multicast v version video videocodec view w which width
"""
_HARMLESS = frozenset(_HARMLESS_KEYS.split())
_NAME = re.compile(r"[A-Za-z]+(?:[-_.][A-Za-z]+)*\d{0,2}(?:\[\])?")
_SIMPLE = re.compile(
    r"[A-Za-z]{1,12}\d{0,3}|\d{1,6}|\d{1,5}x\d{1,5}|[\w-]{1,3}\.\w{2,4}|\d{1,3}(?:\.\d{1,3}){3}"
)
_WORDS = re.compile(r"[a-z]+(?:-[a-z]+)*", re.ASCII)  # as headings of a manual
_RANDOM = re.compile(
    r"(?=[A-Za-z0-9]*[0-9])(?=[A-Za-z0-9]*[A-Za-z])(?!\d{8}T\d{6})[A-Za-z0-9]{16,}"
    r"|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*[0-9])[\w-]{24,}"
)
_known: set[str] = set()  # secrets by what they are, not by their place
_HOLDS_ADDRESS = re.compile(r"://|:.*@", re.DOTALL)
_USER_AND_PASSWORD = re.compile(r"([^:@=]*[A-Za-z][^:@=]*:).+", re.DOTALL)


def redact(text: str) -> str:
    """Returns running text with the secrets of every address in it replaced by ``***``.

    Redacting text again changes nothing.
    """
    made, at = [], 0
    for found in _ADDRESS.finditer(text):
        body = found[2].rstrip(_AFTER)
        made.append(_loose(text[at : found.start()]))
        made.append(_Redaction().address(found[1], body) + found[2][len(body) :])
        at = found.end()
    made.append(_loose(text[at:]))
    return _HEADER.sub(rf"\1{HIDDEN}", "".join(made))


def redact_address(text: str) -> str:
    """Returns an address without its secrets; any text around it would be taken for a part of it.

    Unlike :func:`redact` it knows where the address ends, so that a password may have spaces.
    """
    made = _Redaction().any_address(text)
    for secret in sorted(_known, key=len, reverse=True):
        made = made.replace(secret, HIDDEN)
    return made


def keep_secret(text: str) -> None:
    """Makes a text of four characters or more a secret in every part of any address."""
    if len(text) >= _SHORTEST_SECRET:
        _known.add(text)


def secrets_in(address: str) -> tuple[str, ...]:
    """Returns what :func:`redact_address` hides in an address, the longest first.

    Each secret is there as written and decoded, and the parts of a password as a parser sees them
    that takes a raw "/", "?", "#" or "@" in it for the end of something.
    """
    redaction = _Redaction()
    redaction.any_address(address)
    hidden = [*redaction.hidden, *(secret for secret in _known if secret in address)]
    found = [*hidden, *map(unquote, hidden)]
    for text in redaction.userinfo:
        password = text.partition(":")[2]
        found += [password, unquote(password), *re.split(r"[/?#@:]", password)]
    return tuple(sorted({s for s in found if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True))


def hide(text: str, secrets: Iterable[str]) -> str:
    """Returns running text without any of these secrets, and redacted."""
    text = redact(text)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _loose(text: str) -> str:
    """Redacts what stands between addresses."""
    text = _BARE_USERINFO.sub(f"{HIDDEN}@", text)
    return _BEARER.sub(rf"\1{HIDDEN}", _LOOSE_PAIR.sub(rf"\1{HIDDEN}", text))


class _Redaction:
    """Hides the secrets of one address, and collects them.

    Attributes:
        hidden: What was hidden.
        userinfo: The user information among it.
    """

    def __init__(self) -> None:
        self.hidden: list[str] = []
        self.userinfo: list[str] = []

    def any_address(self, text: str) -> str:
        scheme = re.match(rf"\s*(?:[a-z]+:)?{_SCHEME}", text)
        if scheme:
            return self.address(scheme[0], text[scheme.end() :])
        bare = _BARE_ADDRESS.match(text)
        if not bare:
            return text
        prefix = bare[1] or ""
        return f"{prefix}{self._user(bare[0][len(prefix) : -1])}@{self._tail(text[bare.end() :])}"

    def address(self, scheme: str, body: str) -> str:
        end = _end_of_userinfo(body)
        shown = f"{self._user(body[: end - 1])}@" if end else ""
        return scheme + shown + self._tail(body[end:], scheme.lower().startswith("rtmp"))

    def _tail(self, text: str, stream_key: bool = False) -> str:
        """Redacts HOST/PATH?QUERY#FRAGMENT."""
        parts = _PARTS.fullmatch(text)
        assert parts is not None
        host, path = parts[1], parts[2]
        if nested := re.search(_SCHEME, path):
            start = parts.start(2) + nested.start()
            inner = self.address(nested[0], text[start + len(nested[0]) :])
            return host + self._path(path[: nested.start()]) + inner
        query, fragment = parts[3] or "", parts[4] or ""
        if stream_key:
            before, slash, key = path.rpartition("/")
            path = self._path(before) + slash + self._hide(key)
        else:
            path = self._path(path)
        shown, opened = self._items(query[1:], lambda item: item in _HARMLESS)
        if len(fragment) > 4:
            fragment = "#" + self._items(fragment[1:], _WORDS.fullmatch, opened=opened)[0]
        return host + path + query[:1] + shown + fragment

    def _path(self, path: str) -> str:
        """Redacts a path; a secret ends at the next key that is none."""
        path = "/".join(
            self._hide(one) if "%" in one and _HOLDS_ADDRESS.search(unquote(one)) else one
            for one in path.split("/")
        )
        keys = list(_PATH_KEY.finditer(path))
        if not keys:
            return self._segments(path)
        made, opened = [self._segments(path[: keys[0].start()])], False
        for key, following in zip(keys, [*keys[1:], None], strict=True):
            value = path[key.end() : following.start() if following else len(path)]
            separator = value[-1:] if following and value[-1:] in tuple("/_;,&") else ""
            value = value[: len(value) - len(separator)]
            name = key[1].lower()
            if name not in _HARMLESS and (opened or _SECRET_KEY.search(name)):
                made.append(HIDDEN if opened and not _SECRET_KEY.search(name) else key[0])
                made.append(self._hide(value) + separator)
                opened = True
                continue
            opened = False
            value, slash, rest = value.partition("/")
            value = value if _plain(name, value) else self._hide(value)
            made.append(key[0] + value + self._segments(slash + rest) + separator)
        return "".join(made)

    def _segments(self, path: str) -> str:
        made: list[str] = []
        before = ""
        for segment in path.split("/"):
            decoded = unquote(segment)
            after_key = _SECRET_WORD.fullmatch(before)
            if after_key or _HOLDS_ADDRESS.search(decoded) or _RANDOM.search(decoded):
                segment = self._hide(segment)
            elif found := _USER_AND_PASSWORD.fullmatch(segment):
                segment = found[1] + self._hide(segment[len(found[1]) :])
            made.append(segment)
            before = decoded.lower()
        return "/".join(made)

    def _items(
        self, text: str, is_word: Callable[[str], object], *, opened: bool = False
    ) -> tuple[str, bool]:
        """Redacts NAME=VALUE&NAME=VALUE; returns it, and whether it ends within a secret.

        Args:
            is_word: Whether an item without a value may be shown.
            opened: Whether it begins within a secret, which had a raw "&" or "#".
        """
        made: list[str] = []
        for piece in re.split(r"([&;])", text):
            name, equals, value = piece.partition("=")
            key = unquote(name).lower()
            if piece in ("&", ";", "", HIDDEN):
                made.append(piece)
            elif not equals:
                shown = not opened and (len(piece) <= 3 or is_word(key))
                made.append(piece if shown else self._hide(piece))
            elif key in _HARMLESS:
                opened = False
                made.append(piece if _plain(key, value) else f"{name}={self._hide(value)}")
            elif _SECRET_KEY.search(key):
                opened = True  # an empty one may begin with a raw sign
                made.append(f"{name}={self._hide(value)}")
            elif opened or not _NAME.fullmatch(key):
                opened = True
                made.append(self._hide(piece))
            else:
                opened = not (value and _plain(key, value))
                made.append(f"{name}={self._hide(value)}" if opened else piece)
        return "".join(made), opened

    def _user(self, text: str) -> str:
        self.userinfo.append(text)
        return self._hide(text)

    def _hide(self, text: str) -> str:
        if text and text != HIDDEN:
            self.hidden.append(text)
        return HIDDEN if text else ""


def _plain(key: str, value: str) -> bool:
    """Returns whether the value of a key that is no secret's can be none either."""
    decoded = unquote(value)
    if value == HIDDEN or len(decoded) <= 3:
        return True
    return key in _HARMLESS and bool(_SIMPLE.fullmatch(decoded))


def _end_of_userinfo(body: str) -> int:
    """Returns where the host begins in what follows a scheme; 0 if there is no user information.

    A raw "/", "?" or "#" in a password ends the host part too early: then what follows the colon is
    no port, or a host follows a later "@".
    """
    authority, last = re.split(r"[/?#]", body, maxsplit=1)[0], body.rfind("@")
    user, at, host = authority.rpartition("@")
    if at:
        if not user:
            return 0  # udp://@239.0.0.1
        return last + 1 if ":" in user or not host else len(user) + 1
    _, colon, port = authority.rpartition(":")
    if last < 0 or not colon or authority.startswith("["):
        return 0
    if not re.fullmatch(r"[0-9]+", port):
        return last + 1
    # host:443/@name/live and host:443/?mail=a@b have none, admin:1/2@camera/live has one.
    if re.search(r"[/?#&;,_][A-Za-z%][\w.%-]*=", body[:last]):
        return 0  # it is in a value, which is hidden as such
    return 0 if body[last - 1] == "/" and not _LIKE_A_HOST.match(body, last + 1) else last + 1
