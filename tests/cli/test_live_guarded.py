"""`streamdiffvsr live` under attack: a crowd of connections, and secrets that could show."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamdiffvsr.cli.live_preview import TOKEN
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.preview.rig import free_port, get, wait_until

pytest.importorskip("aiohttp", reason="the preview needs the extra live")
SOURCE = "testsrc=64x48@10"
CANARY = "Zx9canary"
SECRET = {"Authorization": f"Bearer {CANARY}-token"}


@contextmanager
def running(
    *arguments: object, files: int | None = None, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, with a limit of open files."""
    command = [sys.executable, "-m", "streamdiffvsr.cli", "live", *map(str, arguments), "--json"]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def status_of(port: int) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        code, body, _ = get(port, "/status.json", SECRET)
        if code == 200:
            status: dict[str, Any] = json.loads(body)
            return status
    return {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of open files")
def test_a_crowd_ends_neither_the_session_nor_its_recording(
    parity_engines: Path, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    out, port = tmp_path / "out.mkv", free_port()
    bicubic = "testsrc=96x64@10"  # the engines are for another size: no frame waits for a model
    arguments = [bicubic, "--engines", parity_engines, "--to", out, "--preview", f":{port}"]
    token = f"{CANARY}-token"
    with (
        running(*arguments, "--max-seconds", 200, files=128, STREAMDIFFVSR_TOKEN=token) as process,
        ExitStack() as held,
    ):
        wait_until(lambda: (status_of(port).get("sinks") or [{}])[0].get("written"), 30)
        for number in range(400):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if number % 2:
                client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        before = wait_until(lambda: status_of(port))["sinks"][0]["written"]
        wait_until(lambda: status_of(port)["sinks"][0]["written"] > before + 10)
        assert status_of(port)["memory_mb"]
        process.terminate()
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
    assert json.loads(printed.splitlines()[-1])["reason"] == "stopped"
    assert CANARY not in printed
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) > before


ADDRESSES = [
    "rtsp://admin:{0}%40x@127.0.0.1:{1}/live",
    "rtsp://127.0.0.1:{1}/user=admin_password={0}_channel=1_stream=0.sdp",
    "rtsp://admin:p@:s/%w?#{0}@127.0.0.1/cam",
    "rtsp://admin:a@b/{0}@127.0.0.1:{1}/x",
    "http://127.0.0.1:{1}/v.mjpg?loginuse=admin&loginpas={0}",
    "http://127.0.0.1:{1}/v.mjpg?u=a&p={0}#{0}",
    "http://127.0.0.1:{1}/hls/token/{0}/index.m3u8",
    "rtmp://127.0.0.1:{1}/app/{0}",
    "rtsp://admin:{0} x@127.0.0.1:{1}/live",
    "admin:{0}@127.0.0.1:{1}/live",
    "gopher://admin:{0}@127.0.0.1:{1}/live",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_refused_connection_shows_no_secret(cli: Cli, address: str) -> None:
    url = address.format(CANARY, free_port())
    ran = cli("live", url, "--to", "null", "--no-reconnect", "--max-seconds", 20, "--json")
    assert ran.code != 0
    assert CANARY not in ran.out + ran.err
    if "/live" in address or "/x" in address:
        assert "***" in ran.out + ran.err


@pytest.mark.slow
@pytest.mark.parametrize("address", [*ADDRESSES[:2], *ADDRESSES[3:8]])
def test_a_sink_that_is_refused_shows_no_secret(cli: Cli, address: str) -> None:
    url = address.format(CANARY, free_port())
    ran = cli(
        *("live", SOURCE, "--to", url, "--mode", "exact", "--max-frames", 15),
        *("--max-seconds", 20, "--json"),
    )
    assert CANARY not in ran.out + ran.err


def test_no_page_status_metric_or_child_has_a_secret(tmp_path: Path) -> None:
    """The source waits for its camera, a sink for its server, and the token is in a file."""
    port, away = free_port(), free_port()
    file = tmp_path / "token"
    file.write_text(f"{CANARY}-token\n")
    file.chmod(0o600)
    source = ADDRESSES[4].format(CANARY, away)
    sink = f"rtmp://me:{CANARY}@127.0.0.1:{away}/app/{CANARY}"
    with running(
        *(source, "--to", sink, "--preview", f":{port}", "--token-file", file),
        **{TOKEN: f"{CANARY}-variable", "CAMERA": source, "API_KEY": CANARY},
    ) as process:
        wait_until(lambda: (status_of(port).get("source") or {}).get("error"), 30)
        seen = [get(port, path, SECRET)[1] for path in ("/", "/status.json", "/metrics")]
        seen.append(get(port, "/healthz", SECRET)[1])
        seen.append(get(port, "/status.json")[1])
        assert not any(CANARY.encode() in body for body in seen)
        children = wait_until(lambda: psutil.Process(process.pid).children(recursive=True), 30)
        looked = 0
        for child in children:
            with contextlib.suppress(psutil.Error):
                own = [*child.cmdline(), *child.environ().values()]
                assert not [text for text in own if CANARY in text]
                looked += 1
        process.terminate()
        printed, _ = process.communicate(timeout=30)
    assert looked
    assert CANARY not in printed
    assert "***" in printed and "the token is in" in printed
