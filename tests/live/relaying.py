"""Real peers of SRT and WHIP on loopback, and what they have seen."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamdiffvsr.tests.live.receivers import free_port, ports_of, running, wait_until

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="of the whip extra")
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
QUIET = ["-hide_banner", "-v", "error", "-nostdin", "-y"]
ROOT = Path(__file__).parents[2]


def free_udp_port() -> int:
    """A UDP port of loopback that was free a moment ago."""
    return free_port(socket.SOCK_DGRAM)


@contextmanager
def srt_receiver(url: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An ffmpeg that keeps what comes from an SRT address, byte by byte; up once it listens."""
    copy = ["-f", "data", "-i", url, "-map", "0", "-c", "copy", "-f", "data", str(output)]
    with running(FFMPEG, *QUIET, *copy, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: ports_of(process.pid) or process.poll() is not None)
        yield process


@contextmanager
def srt_sender(url: str, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An ffmpeg that sends a file to an SRT address at its own pace."""
    copy = ["-re", "-i", str(file), "-map", "0", "-c", "copy", "-f", "mpegts", url]
    with running(FFMPEG, *QUIET, *copy, stderr=subprocess.DEVNULL) as process:
        yield process


class WhipServer:
    """An aiortc server in a process of its own.

    Attributes:
        process: The process.
        where: HOST:PORT/PATH of its endpoint.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self._port = process, port
        self.where = f"127.0.0.1:{port}/live/whip"

    def seen(self) -> list[dict[str, Any]]:
        """Returns what of each stream has arrived."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/seen", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found


@contextmanager
def whip_server(answer: str = "yes", port: int = 0) -> Iterator[WhipServer]:
    """A server that listens; see ``whip_server.py`` for its answers."""
    pytest.importorskip("aiortc", reason="of the dev extra")
    port = port or free_port()
    script = str(Path(__file__).with_name("whip_server.py"))
    environment = {"PYTHONPATH": str(ROOT / ".links"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, script, str(port), answer]
    with running(*command, env=environment, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: port in ports_of(process.pid) or process.poll() is not None)
        assert process.poll() is None, "the WHIP server did not start"
        yield WhipServer(process, port)


def relays() -> list[psutil.Process]:
    """The ffmpeg processes that serve a source or a sink of this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "level+info" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue  # it has just ended
    return found
