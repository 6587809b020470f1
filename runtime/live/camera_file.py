"""Reads the configuration of `serve`: a TOML file, or one camera as JSON.

Every fault is one line that names the file, the camera and the key. Values are shown only where
they cannot be secret.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import StreamDiffVSRError, UsageError, shown
from .addresses import AUTO, rtsp_transports
from .camera import CameraPlan
from .guests import ALLOWED
from .mode import MODES
from .service import MAX_CAMERAS, NAME, Settings
from .sink_targets import parse_target, unused_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LISTEN = "127.0.0.1:8080"
_MAX_BYTES = 1 << 20
_LONGEST_SECRET = 4096  # bytes
_VARIABLE = re.compile(r"\$\{(file:)?([^{}]*)\}")
_MAX_SIDE = 1 << 16


class Faults(UsageError):
    """Raised for a configuration that is wrong.

    Attributes:
        lines: One line for each fault.
    """

    def __init__(self, lines: list[str]) -> None:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        super().__init__(lines[0] + more)
        self.lines = lines


class _Wrong(Exception):
    """A value that is wrong; says what it has to be."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the file of a service says.

    Attributes:
        listen: HOST:PORT of the page.
        token_file: The file of the page's token, or None.
        names: Further host names by which the page is reached.
        allow: What the API may add, of `ALLOWED`.
        engines: The entries of the table of engines, by name.
        cameras: The cameras by name, in order.
    """

    listen: str = LISTEN
    token_file: Path | None = None
    names: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    engines: Mapping[str, Any] = field(default_factory=dict)
    cameras: Mapping[str, Settings] = field(default_factory=dict)


def read_configuration(path: Path) -> Configuration:
    """Reads and checks the file of a service.

    Raises:
        Faults: It is wrong.
        StreamDiffVSRError: It cannot be read.
    """
    failure = f"could not read {str(path)!r}"
    try:
        if not path.is_file():  # a pipe might never end
            why = "it is no ordinary file" if path.exists() else "there is no such file"
            raise StreamDiffVSRError(failure, why)
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise StreamDiffVSRError(failure, "it is larger than a megabyte")
        table = tomllib.loads(data.decode())
    except OSError as error:
        raise StreamDiffVSRError(failure, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # TOML's own error is a ValueError
        why = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is no UTF-8 text"
        raise Faults([f"{path.name}: {why}"]) from error
    reader = _Reader()
    found = reader.file(table)
    if reader.faults:
        raise Faults([f"{path.name}: {line}" for line in reader.faults])
    return found


def read_camera(
    name: str, table: Mapping[str, Any], check: Callable[[CameraPlan], None]
) -> Settings:
    """Reads and checks one camera that did not come from the file: no variables are replaced.

    Args:
        check: Raises if the camera is not allowed; called before anything looks for its files.

    Raises:
        Faults: It is wrong.
    """
    reader = _Reader(expand=False, check=check)
    settings = reader.camera(name, table, {})
    if reader.faults or settings is None:
        raise Faults(reader.faults)
    return settings


class _Reader:
    """Collects what is found, and the faults."""

    def __init__(
        self, *, expand: bool = True, check: Callable[[CameraPlan], None] = lambda plan: None
    ) -> None:
        self.faults: list[str] = []
        self._expand, self._check = expand, check

    def file(self, table: Mapping[str, Any]) -> Configuration:
        self._unknown("", table, ("server", "engines", "defaults", "camera"))
        server = self._values("[server]", self._table("[server]", table, "server"), _SERVER)
        engines = self._values("[engines]", self._table("[engines]", table, "engines"), _ENGINES)
        defaults = self._values("[defaults]", self._table("[defaults]", table, "defaults"), _SHARED)
        cameras: dict[str, Settings] = {}
        for name, one in self._cameras(table.get("camera", {})):
            if name in cameras:
                self.faults.append(f"camera {shown(name)}: the name is given twice")
            elif (settings := self.camera(name, one, defaults)) is not None:
                cameras[name] = settings
        if len(cameras) > MAX_CAMERAS:
            self.faults.append(f"there are {len(cameras)} cameras, and at most {MAX_CAMERAS} fit")
        self._check_outputs(cameras)
        return Configuration(**server, engines=engines, cameras=cameras)

    def camera(
        self, name: str, table: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> Settings | None:
        """Returns the settings of one camera, or None if it has a fault."""
        before, where = len(self.faults), f"camera {shown(name)}"
        if not NAME.fullmatch(name):
            self.faults.append(
                f"{where}: a name has up to 63 letters, digits, points, dashes and underlines"
            )
        given = {**defaults, **self._values(where, table, _CAMERA)}
        if "source" not in table:
            self.faults.append(f"{where}, key source: it is missing")
        if len(self.faults) > before:
            return None
        paused = given.pop("paused", False)
        plan = CameraPlan(**given)
        self._check(plan)
        self._check_places(where, plan)
        return Settings(plan, paused) if len(self.faults) == before else None

    def _check_places(self, where: str, plan: CameraPlan) -> None:
        """Parses the source and the targets, which says what is wrong with them."""
        try:
            plan.address()
        except StreamDiffVSRError as error:
            self.faults.append(f"{where}, key source: {error}")
        for target in plan.to:
            try:
                parse_target(unused_name(target), overwrite=plan.overwrite or _is_playlist(target))
            except StreamDiffVSRError as error:
                self.faults.append(f"{where}, key to: {error}")

    def _check_outputs(self, cameras: Mapping[str, Settings]) -> None:
        """Two cameras cannot write to one place."""
        seen: dict[str, str] = {}
        for name, settings in cameras.items():
            for target in settings.plan.to:
                if target == "null":
                    continue
                if (other := seen.setdefault(target, name)) != name:
                    self.faults.append(
                        f"camera {shown(name)}, key to: camera {shown(other)} writes there already"
                    )
                elif settings.plan.to.count(target) > 1:
                    self.faults.append(f"camera {shown(name)}, key to: an output is given twice")
                    break

    def _cameras(self, given: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(given, Mapping):
            named = list(given.items())
        elif isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
            named = [
                (one.get("name"), {key: value for key, value in one.items() if key != "name"})
                for one in given
            ]
        else:
            named = [("", given)]
        for number, (name, table) in enumerate(named, 1):
            if not isinstance(table, Mapping):
                self.faults.append("camera: write [camera.NAME], and its keys below that")
            elif not isinstance(name, str) or not name:
                self.faults.append(f"camera {number}, key name: it is missing, or no text")
            else:
                yield name, table

    def _table(self, where: str, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = table.get(key, {})
        if isinstance(value, Mapping):
            return value
        self.faults.append(f"{where}: it is no table")
        return {}

    def _values(
        self, where: str, table: Mapping[str, Any], keys: Mapping[str, Key]
    ) -> dict[str, Any]:
        self._unknown(where, table, keys)
        found = {}
        for key, value in table.items():
            if key in keys:
                try:
                    known = keys[key]
                    found[known.name or key] = known.read(self._expanded(value))
                except _Wrong as wrong:
                    self.faults.append(f"{where}, key {key}: {wrong}")
        return found

    def _unknown(self, where: str, table: Mapping[str, Any], known: Any) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, list(known), n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                place = f"{where}, key {shown(key)}" if where else f"[{key}]"
                self.faults.append(f"{place}: it is unknown; {hint}")

    def _expanded(self, value: Any) -> Any:
        """Returns a value with its variables replaced."""
        if not self._expand:
            return value
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: _variable(found, value), value)
        if isinstance(value, list):
            return [self._expanded(one) for one in value]
        if isinstance(value, dict):
            return {key: self._expanded(one) for key, one in value.items()}
        return value


def _variable(found: re.Match[str], text: str) -> str:
    """Returns what stands in place of ${NAME} or ${file:PATH}.

    Within an address it is escaped, so that a password may have any characters.
    """
    name = found[2]
    if found[1]:
        try:
            path = Path(name)
            secret = path.read_bytes()[: _LONGEST_SECRET + 1].decode() if path.is_file() else None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise _Wrong(f"the file {name!r} cannot be read: {why}") from error
        if secret is None or len(secret) > _LONGEST_SECRET:
            raise _Wrong(f"there is no file {name!r} of one line")
        value = secret.strip()
    else:
        if (variable := os.environ.get(name)) is None:
            raise _Wrong(f"the variable {name!r} is not set")
        value = variable
    within = "://" in text[: found.start()]
    return quote(value, safe="") if within else value


def _is_playlist(target: str) -> bool:
    return target.lower().endswith(".m3u8")


# ---- the keys ----


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what reads its value, and the name of the field that it sets, if that differs."""

    read: Callable[[Any], Any]
    name: str = ""


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _Wrong("it has to be a text in quotes")


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if all(isinstance(one, str) and one.strip() for one in listed):
        return tuple(listed)
    raise _Wrong("it has to be a text, or a list of texts")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Wrong(f"{shown(value)} is not true or false")


def _from(least: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        usual = isinstance(value, int | float) and not isinstance(value, bool)
        if usual and least <= value < 1e9:
            return float(value)
        raise _Wrong(f"{shown(value)} is not a number from {least:g} on")

    return read


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 50:
        return value
    raise _Wrong(f"{shown(value)} is not a whole number from 1 to 50")


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value in choices:
            return str(value)
        raise _Wrong(f"{shown(value)} is not {', '.join(choices[:-1])} or {choices[-1]}")

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
        raise _Wrong(wanted)
    for one in value:
        sides = isinstance(one, list) and len(one) == 4 and all(type(side) is int for side in one)
        if not sides or min(one) < 0 or min(one[2:]) < 1 or max(one) > _MAX_SIDE:
            raise _Wrong(wanted)
    return tuple((x, y, width, height) for x, y, width, height in value)


def _options(value: Any) -> tuple[tuple[str, str], ...]:
    known = (str, int, float)
    if isinstance(value, Mapping) and all(
        isinstance(one, known) and not isinstance(one, bool) for one in value.values()
    ):
        return tuple((name, str(one)) for name, one in value.items())
    raise _Wrong('it has to be a table such as { user_agent = "NAME" }')


def _listen(value: Any) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/]*):(\d{1,5})", str(value))
    if isinstance(value, str) and found and int(found[2]) < 1 << 16:
        return value
    raise _Wrong(f"{shown(value)} is not HOST:PORT")


def _allow(value: Any) -> frozenset[str]:
    if isinstance(value, list) and all(isinstance(one, str) and one in ALLOWED for one in value):
        return frozenset(value)
    raise _Wrong(f"it has to be a list of some of {', '.join(ALLOWED)}")


def _path(value: Any) -> Path:
    return Path(_text(value))


_SERVER = {
    "listen": Key(_listen),
    "token_file": Key(_path),
    "names": Key(_texts),
    "allow": Key(_allow),
}
_ENGINES = {
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
_SHARED = {
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
_CAMERA = {
    "source": Key(_text),
    "to": Key(_texts),
    "roi": Key(_regions, "regions"),
    "paused": Key(_flag),
    **_SHARED,
}
