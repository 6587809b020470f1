"""The exit code and the words of a live session without frames, or without useful ones."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from streamdiffvsr.building import builder
from streamdiffvsr.cli.live_source import SizeAdvice, expected_s
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.live import engine_pool, tile_thread
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.receivers import free_port
from streamdiffvsr.tests.live.streams import tcp


def unauthorized(client: socket.socket) -> None:
    """Answers as a camera that wants another password does."""
    while request := client.recv(65536).decode():
        (number,) = [line for line in request.split("\r\n") if line.startswith("CSeq")]
        answer = ["RTSP/1.0 401 Unauthorized", number, 'WWW-Authenticate: Basic realm="x"', "", ""]
        client.sendall("\r\n".join(answer).encode())


@pytest.mark.slow
@pytest.mark.parametrize("lines", [True, False])
def test_a_session_that_never_got_a_frame_fails(
    cli: Cli, parity_engines: Path, lines: bool
) -> None:
    with tcp(unauthorized) as camera:
        ran = cli(
            *("live", f"rtsp://viewer:c4nary@127.0.0.1:{camera.port}/x", "--to", "null"),
            *("--engines", parity_engines, "--max-seconds", 4, *(["--json"] if lines else [])),
        )
    assert ran.code == 1
    told = ran.err.splitlines()
    assert len(told) == 1 and told[0].startswith("error: no frame came from 'rtsp://***@")
    assert "it does not accept this user name and password (401); check them" in told[0]
    last = json.loads(ran.out.splitlines()[-1])
    assert (last["reason"], last["frames"], last["exit_code"]) == ("time", 0, 1)
    assert f"error: {last['error']}" == told[0]
    assert "c4nary" not in ran.out + ran.err


def test_timeouts_and_the_transport_reach_the_source(cli: Cli, parity_engines: Path) -> None:
    ran = cli(
        *("live", f"tcp://127.0.0.1:{free_port()}?listen=1", "--to", "null", "--json"),
        *("--engines", parity_engines, "--max-seconds", 1, "--open-timeout", 0.3),
        *("--stall-timeout", 9, "--rtsp-transport", "udp"),
    )
    assert ran.code == 1
    assert "it has not answered yet" in json.loads(ran.out.splitlines()[-1])["error"]
    bad = cli("live", "rtsp://127.0.0.1/x", "--to", "null", "--rtsp-transport", "http")
    assert bad.code == 2
    assert "--rtsp-transport auto, tcp or udp" in bad.err or "--rtsp-transport" in bad.err


@pytest.mark.slow
def test_frames_that_are_too_large_for_a_cpu_are_warned_of_once(
    cli: Cli, parity_engines: Path
) -> None:
    ran = cli(
        *("live", "testsrc=2048x1536@2", "--engines", parity_engines, "--to", "null"),
        *("--device", "cpu", "--max-frames", 2, "--json"),
    )
    assert ran.code == 0
    warned = [line for line in ran.out.splitlines() if "too large for this CPU" in line]
    assert len(warned) == 1
    assert "8192x6144" in warned[0] and "sub-stream" in warned[0]


def test_only_sizes_that_can_never_be_useful_are_warned_of() -> None:
    assert expected_s((2160, 3840), 2) > 6
    assert expected_s((720, 1280), 2) < 1
    assert expected_s((1080, 1920), 16) < 1 < expected_s((2160, 3840), 64)
    told: list[str] = []
    for device, count in (("cpu", 1), ("cuda:0", 0)):
        advice = SizeAdvice(device, told.append)
        for size in ("", "160x90", "3840x2160", "3840x2160"):
            advice.look({"source": {"size": size}})
        assert len(told) == count
        told.clear()


@pytest.mark.parametrize(("mode", "size"), [("exact", "160x90"), ("adaptive", "48x48")])
def test_a_session_that_ends_before_its_engine_is_there_says_so(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, size: str
) -> None:
    closed = threading.Event()

    def build(order: object, progress: object) -> None:
        """A build that takes until its process is ended."""
        closed.wait(60)
        raise StreamDiffVSRError("the build ended unexpectedly", "it was closed")

    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(builder, "execute_in_child", build)
    for module in (engine_pool, tile_thread):
        monkeypatch.setattr(module, "close_children_of", lambda thread: closed.set())
    ran = cli(
        *("live", "testsrc=160x90@30", "--to", "null", "--mode", mode, "--json"),
        *("--max-frames", 30, "--device", "cpu"),
    )
    assert ran.code == 0, ran.err
    told = [json.loads(line).get("text", "") for line in ran.out.splitlines()]
    assert [line for line in told if "no frame was made" in line] == [
        "no frame was made by the model: the session ended before its engine was built; "
        f"`streamdiffvsr engines --size {size}` builds it ahead"
    ]
    assert not any("failed" in line or "unexpectedly" in line for line in told)


def test_given_engines_are_never_said_to_be_built(cli: Cli, parity_engines: Path) -> None:
    ran = cli(
        *("live", "testsrc=160x90@10", "--to", "null", "--mode", "exact", "--json"),
        *("--engines", parity_engines, "--max-frames", 5),
    )
    assert ran.code == 0, ran.err
    assert "the given set is checked and opened" in ran.out
    assert "built first" not in ran.out
