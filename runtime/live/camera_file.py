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
from ..media.redact import hide, keep_secret
from .camera import CameraPlan
from .camera_keys import CAMERA, ENGINES, LISTEN, SERVER, SHARED, Key, Wrong
from .service import MAX_CAMERAS, NAME, Settings
from .sink_targets import parse_target, place_of, unused_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1 << 20
_LONGEST_SECRET = 4096  # bytes
_SHORTEST_SECRET = 4  # characters; a shorter one would hide parts of words
_MOST_POINTS = 2000  # in a line
_VARIABLE = re.compile(r"\$\{(file:)?([^{}]*)\}")


class Faults(UsageError):
    """Raised for a configuration that is wrong.

    Attributes:
        lines: One line for each fault.
    """

    def __init__(self, lines: list[str]) -> None:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        super().__init__(lines[0] + more)
        self.lines = lines


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
        table = _table_of(data)
    except OSError as error:
        raise StreamDiffVSRError(failure, error.strerror or str(error)) from error
    except Wrong as wrong:
        raise Faults([f"{path.name}: {wrong}"]) from wrong
    reader = _Reader()
    found = reader.file(table)
    if reader.faults:
        raise Faults([f"{path.name}: {line}" for line in reader.faults])
    return found


def _table_of(data: bytes) -> dict[str, Any]:
    """Returns the table that the bytes of a file are; raises `Wrong` if they are none."""
    try:
        text = data.decode("utf-8-sig")  # as some editors of Windows write it
        if any(line.count(".") > _MOST_POINTS for line in text.split("\n")):
            raise Wrong(f"a line has more than {_MOST_POINTS} points")  # keys take their square
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Wrong(str(error)) from error
    except UnicodeDecodeError as error:
        raise Wrong("it is no UTF-8 text") from error
    except RecursionError as error:
        raise Wrong("its lists or tables are nested too deep") from error
    except ValueError as error:
        raise Wrong("a number in it has too many digits") from error


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
        self._found: list[str] = []
        self._secrets: set[str] = set()
        self._expand, self._check = expand, check

    @property
    def faults(self) -> list[str]:
        """The faults, without what came from a variable or a file."""
        return [hide(line, sorted(self._secrets, key=len, reverse=True)) for line in self._found]

    def file(self, table: Mapping[str, Any]) -> Configuration:
        self._unknown("", table, ("server", "engines", "defaults", "camera"))
        server = self._values("[server]", self._table("[server]", table, "server"), SERVER)
        engines = self._values("[engines]", self._table("[engines]", table, "engines"), ENGINES)
        defaults = self._values("[defaults]", self._table("[defaults]", table, "defaults"), SHARED)
        cameras: dict[str, Settings] = {}
        for name, one in self._cameras(table.get("camera", {})):
            if name in cameras:
                self._found.append(f"camera {shown(name)}: the name is given twice")
            elif (settings := self.camera(name, one, defaults)) is not None:
                cameras[name] = settings
        if len(cameras) > MAX_CAMERAS:
            self._found.append(f"there are {len(cameras)} cameras, and at most {MAX_CAMERAS} fit")
        self._check_outputs(cameras)
        return Configuration(**server, engines=engines, cameras=cameras)

    def camera(
        self, name: str, table: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> Settings | None:
        """Returns the settings of one camera, or None if it has a fault."""
        before, where = len(self._found), f"camera {shown(name)}"
        if not NAME.fullmatch(name):
            self._found.append(
                f"{where}: a name has up to 63 letters, digits, points, dashes and underlines"
            )
        given = {**defaults, **self._values(where, table, CAMERA)}
        if "source" not in table:
            self._found.append(f"{where}, key source: it is missing")
        if len(self._found) > before:
            return None
        paused = given.pop("paused", False)
        plan = CameraPlan(**given)
        self._check(plan)
        self._check_places(where, plan)
        return Settings(plan, paused) if len(self._found) == before else None

    def _check_places(self, where: str, plan: CameraPlan) -> None:
        """Parses the source and the targets, which says what is wrong with them."""
        try:
            plan.address()
        except (StreamDiffVSRError, OSError) as error:
            self._found.append(f"{where}, key source: {_reason(error)}")
        for target in plan.to:
            try:
                parse_target(unused_name(target), overwrite=plan.overwrite or _is_playlist(target))
            except (StreamDiffVSRError, OSError) as error:
                self._found.append(f"{where}, key to: {_reason(error)}")

    def _check_outputs(self, cameras: Mapping[str, Settings]) -> None:
        """Two cameras cannot write to one place."""
        seen: dict[str, str] = {}
        for name, settings in cameras.items():
            places = [place_of(target) for target in settings.plan.to if target != "null"]
            if len(set(places)) < len(places):
                self._found.append(f"camera {shown(name)}, key to: an output is given twice")
            for place in dict.fromkeys(places):
                if (other := seen.setdefault(place, name)) != name:
                    self._found.append(
                        f"camera {shown(name)}, key to: camera {shown(other)} writes there already"
                    )

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
                self._found.append("camera: write [camera.NAME], and its keys below that")
            elif not isinstance(name, str) or not name:
                self._found.append(f"camera {number}, key name: it is missing, or no text")
            else:
                yield name, table

    def _table(self, where: str, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = table.get(key, {})
        if isinstance(value, Mapping):
            return value
        self._found.append(f"{where}: it is no table")
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
                except Wrong as wrong:
                    self._found.append(f"{where}, key {key}: {wrong}")
        return found

    def _unknown(self, where: str, table: Mapping[str, Any], known: Any) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, list(known), n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                place = f"{where}, key {shown(key)}" if where else f"[{key}]"
                self._found.append(f"{place}: it is unknown; {hint}")

    def _expanded(self, value: Any) -> Any:
        """Returns a value with its variables replaced."""
        if not self._expand:
            return value
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: self._variable(found, value), value)
        if isinstance(value, list):
            return [self._expanded(one) for one in value]
        if isinstance(value, dict):
            return {key: self._expanded(one) for key, one in value.items()}
        return value

    def _variable(self, found: re.Match[str], text: str) -> str:
        """Returns what stands in place of ${NAME} or ${file:PATH}, and keeps it as a secret.

        Within an address it is escaped, so that a password may have any characters.
        """
        value = _value_of(found)
        escaped = quote(value, safe="")
        for secret in (value, escaped, repr(value)[1:-1], shown(value)[1:-1]):
            if len(secret) >= _SHORTEST_SECRET:
                self._secrets.add(secret)
        if "://" not in text[: found.start()]:
            return value
        keep_secret(escaped)
        return escaped


def _value_of(found: re.Match[str]) -> str:
    """Returns what ${NAME} or ${file:PATH} stands for; raises `Wrong` if that is not there."""
    name = found[2]
    if found[1]:
        try:
            path = Path(name)
            secret = path.read_bytes()[: _LONGEST_SECRET + 1].decode() if path.is_file() else None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise Wrong(f"the file {name!r} cannot be read: {why}") from error
        if secret is None or len(secret) > _LONGEST_SECRET:
            raise Wrong(f"there is no file {name!r} of one line")
        return secret.strip()
    if (variable := os.environ.get(name)) is None:
        raise Wrong(f"the variable {name!r} is not set")
    return variable


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _is_playlist(target: str) -> bool:
    return target.lower().endswith(".m3u8")
