"""The RTSP server of the tests as a process: started, killed, stopped and gone on by its pid."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

_PYTHON = Path("/usr/bin/python3")  # Debian's, which has python3-gi
_SCRIPT = Path(__file__).with_name("rtsp_server.py")
_NEEDED = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('Gst', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert all(map(Gst.ElementFactory.find, ('x264enc', 'h264parse', 'rtph264pay', 'appsrc')))"
)


@functools.cache
def available() -> bool:
    """Returns whether this machine can run the server."""
    if not _PYTHON.exists():
        return False
    tried = subprocess.run([_PYTHON, "-c", _NEEDED], capture_output=True, timeout=60, check=False)
    return tried.returncode == 0


needs_rtsp_server = pytest.mark.skipif(
    "not __import__('streamdiffvsr.tests.live.rtsp', fromlist=['x']).available()",
    reason="needs GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0, python3-gi and plugins)",
)


class RtspServer:
    """A running server; a context manager.

    Args:
        options: Of ``rtsp_server.py``: ``size="320x180"``, ``fps=15``, ``codec="h265"``; a change
            of ``options`` counts from the next :meth:`start`.
    """

    def __init__(self, *, port: int = 0, path: str = "/live", **options: object) -> None:
        self._path, self.options = path, options
        self._process: subprocess.Popen[str] | None = None
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"rtsp://127.0.0.1:{self.port}{self._path}"

    def start(self) -> None:
        """Serve, on the same port as before; returns when it accepts clients."""
        flags = {"port": self.port, "path": self._path, **self.options}
        command = [str(_PYTHON), str(_SCRIPT)]
        for name, value in flags.items():
            flag = f"--{name.replace('_', '-')}"
            command += [flag] if value is True else [flag, str(value)]
        deadline = time.monotonic() + 20
        while True:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if line.startswith("PORT "):
                self.port = int(line.split()[1])
                return
            self.kill()
            if time.monotonic() > deadline:  # the old port may take a moment to be free
                raise RuntimeError(f"the RTSP server did not start: {line!r}")

    def received(self) -> None:
        """Wait for the next frame that a sender pushed to it."""
        assert self._process is not None and self._process.stdout is not None
        assert self._process.stdout.readline() == "FRAME\n"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            self._signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def stop(self) -> None:
        """Freeze it: connections stay, and nothing comes."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
