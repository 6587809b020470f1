"""Many cameras in one process: added, removed, paused and restarted while the others go on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import UsageError
from .camera import Camera, CameraPlan
from .sink_targets import place_of

MAX_CAMERAS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
FILE, API = "file", "api"
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of one camera: its plan, and whether it begins paused."""

    plan: CameraPlan
    paused: bool = False


class NameTaken(UsageError):
    """Raised for a name that another camera has."""


Make = Callable[[str, Settings, str], Camera]  # from its name, its settings and its origin


class UnknownCamera(UsageError):
    """Raised for a name that no camera has."""


class Service:
    """The cameras of a service, by name.

    Methods may be called from any thread. Those that change which cameras there are wait for each
    other, and until a removed camera is closed, at most some seconds.

    Args:
        make: Makes a camera, which starts at once.
        tell: Receives a line for each change.
    """

    def __init__(self, make: Make, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self._make, self._tell = make, tell
        self._cameras: dict[str, Camera] = {}
        self._settings: dict[str, Settings] = {}  # of the file's
        self._changing = threading.Lock()
        self._closed = False

    @property
    def cameras(self) -> dict[str, Camera]:
        """Returns the cameras by name, in the order in which they came."""
        return dict(self._cameras)

    def find(self, name: str) -> Camera:
        """Returns the camera of that name.

        Raises:
            UnknownCamera: There is none.
        """
        camera = self._cameras.get(name)
        if camera is None:
            raise UnknownCamera(f"there is no camera {name!r:.80}")
        return camera

    def add(self, name: str, settings: Settings, origin: str = API) -> Camera:
        """Adds a camera, and starts it.

        Raises:
            NameTaken: Another camera has the name.
            UsageError: It is no name, or there are too many cameras.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"a camera cannot be named {name!r:.80}",
                "its name becomes a part of an address",
                "use up to 63 letters, digits, points, dashes and underlines",
            )
        with self._changing:
            if name in self._cameras:
                raise NameTaken(f"there is a camera {name!r} already", remedy="remove it first")
            if len(self._cameras) >= MAX_CAMERAS or self._closed:
                raise UsageError(f"no camera can be added to {len(self._cameras)}")
            self._check_outputs(settings)
            camera = self._put(name, settings, origin)
        self._tell(f"{name}: added")
        return camera

    def remove(self, name: str) -> None:
        """Removes a camera, and waits until its files are finished.

        Raises:
            UnknownCamera: There is none of that name.
        """
        with self._changing:
            self.find(name)
            self._drop([name])
        self._tell(f"{name}: removed")

    def follow(self, wanted: Mapping[str, Settings]) -> str:
        """Makes the cameras of the file those that are wanted; the others go on untouched.

        Cameras that were added otherwise stay, unless the file now has one of that name.

        Returns:
            What was changed, in one line.
        """
        with self._changing:
            before = self._settings
            gone = [name for name in before if name not in wanted and name in self._cameras]
            changed = [
                name
                for name, settings in wanted.items()
                if name in self._cameras and before.get(name) != settings
            ]
            new = [name for name in wanted if name not in self._cameras]
            self._drop([*gone, *changed])
            self._settings = dict(wanted)
            for name in (*changed, *new):
                self._put(name, wanted[name], FILE)
        parts = {"added": new, "removed": gone, "restarted": changed}
        said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
        return "; ".join(said) or "nothing changed"

    def close(self) -> bool:
        """Ends every camera, files finished; returns whether one is stuck in an engine."""
        with self._changing:
            self._closed = True
            cameras = list(self._cameras.values())
            self._close_all(cameras)
        return any(camera.stuck for camera in cameras)

    def _check_outputs(self, settings: Settings) -> None:
        wanted = {place_of(target) for target in settings.plan.to if target != "null"}
        for other, camera in self._cameras.items():
            if wanted.intersection(map(place_of, camera.plan.to)):
                raise UsageError(f"camera {other!r} writes to such an output already")

    def _put(self, name: str, settings: Settings, origin: str) -> Camera:
        camera = self._cameras[name] = self._make(name, settings, origin)
        return camera

    def _drop(self, names: list[str]) -> None:
        self._close_all([self._cameras[name] for name in names])
        for name in names:
            del self._cameras[name]

    @staticmethod
    def _close_all(cameras: list[Camera]) -> None:
        """Closes cameras at the same time, as each may take seconds."""
        threads = [threading.Thread(target=each.close, daemon=True) for each in cameras]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_CLOSE_S + 1)
