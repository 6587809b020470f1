"""The keys of the configuration of `serve`, and what reads the value of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UsageError, shown
from .addresses import AUTO, rtsp_transports
from .guests import ALLOWED
from .mode import MODES

LISTEN = "127.0.0.1:8080"
_MAX_SIDE = 1 << 16


class Wrong(Exception):
    """A value that is wrong; says what it has to be."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what reads its value, and the name of the field that it sets, if that differs."""

    read: Callable[[Any], Any]
    name: str = ""


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return _usable(value)
    raise Wrong("it has to be a text in quotes")


def _usable(text: str) -> str:
    """Returns a text that can be a name or an address; raises `Wrong` for any other."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Wrong("it has a character that no name or address can have")
    return text


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if all(isinstance(one, str) and one.strip() for one in listed):
        return tuple(map(_usable, listed))
    raise Wrong("it has to be a text, or a list of texts")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Wrong(f"{shown(value)} is not true or false")


def _from(least: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        usual = isinstance(value, int | float) and not isinstance(value, bool)
        if usual and least <= value < 1e9:
            return float(value)
        raise Wrong(f"{shown(value)} is not a number from {least:g} on")

    return read


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 50:
        return value
    raise Wrong(f"{shown(value)} is not a whole number from 1 to 50")


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value in choices:
            return str(value)
        raise Wrong(f"{shown(value)} is not {', '.join(choices[:-1])} or {choices[-1]}")

    return read


def _transport(value: Any) -> str:
    try:
        rtsp_transports(value if isinstance(value, str) else "")
    except UsageError:
        return _one_of(AUTO, "tcp", "udp")(value)
    return str(value)


def _regions(value: Any) -> tuple[tuple[int, int, int, int], ...]:
    wanted = "it has to be a list of regions [X, Y, WIDTH, HEIGHT] in pixels of the source"
    if not isinstance(value, list):
        raise Wrong(wanted)
    for one in value:
        sides = isinstance(one, list) and len(one) == 4 and all(type(side) is int for side in one)
        if not sides or min(one) < 0 or min(one[2:]) < 1 or max(one) > _MAX_SIDE:
            raise Wrong(wanted)
    return tuple((x, y, width, height) for x, y, width, height in value)


def _options(value: Any) -> tuple[tuple[str, str], ...]:
    known = (str, int, float)
    if isinstance(value, Mapping) and all(
        isinstance(one, known) and not isinstance(one, bool) and not _is_huge(one)
        for one in value.values()
    ):
        return tuple((_usable(name), _usable(str(one))) for name, one in value.items())
    raise Wrong('it has to be a table such as { user_agent = "NAME" }')


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= 1 << 63


def _listen(value: Any) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/]*):([0-9]{1,5})", str(value))
    if isinstance(value, str) and found and int(found[2]) < 1 << 16:
        return value
    raise Wrong(f"{shown(value)} is not HOST:PORT")


def _allow(value: Any) -> frozenset[str]:
    if isinstance(value, list) and all(isinstance(one, str) and one in ALLOWED for one in value):
        return frozenset(value)
    raise Wrong(f"it has to be a list of some of {', '.join(ALLOWED)}")


def _path(value: Any) -> Path:
    return Path(_text(value))


SERVER = {
    "listen": Key(_listen),
    "token_file": Key(_path),
    "names": Key(_texts),
    "allow": Key(_allow),
}
ENGINES = {
    "folder": Key(_path),
    "model": Key(_text),
    "backend": Key(_text),
    "precision": Key(_text),
    "device": Key(_text),
    "steps": Key(_whole),
    "flow_scale": Key(_whole),
    "revision": Key(_text),
    "color_match": Key(_one_of("auto", "on", "off")),
}
SHARED = {
    "mode": Key(_one_of(*MODES)),
    "refresh_s": Key(_from(0.1)),
    "latency_ms": Key(_from(1)),
    "option": Key(_options, "options"),
    "rtsp_transport": Key(_transport),
    "open_timeout": Key(_from(0.1), "open_timeout_s"),
    "stall_timeout": Key(_from(0.1), "stall_timeout_s"),
    "reconnect": Key(_flag),
    "audio": Key(_flag, "sound"),
    "overwrite": Key(_flag),
}
CAMERA = {
    "source": Key(_text),
    "to": Key(_texts),
    "roi": Key(_regions, "regions"),
    "paused": Key(_flag),
    **SHARED,
}
