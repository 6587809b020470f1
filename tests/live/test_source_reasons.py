"""What is said of a source that gives no video: what is wrong with it, and what to do."""

from __future__ import annotations

import io
import socket

import av
import numpy as np
import pytest

from streamdiffvsr.runtime.live.rtsp_child import RtspTalk
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.receivers import free_port
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.streams import tcp
from streamdiffvsr.tests.live.watching import watch

SMALL = {"size": "160x96", "fps": 15, "gop": 15}


def said(url: str) -> tuple[str, float]:
    """Returns the line about a source that does not play, and the seconds until the next try."""
    with watch(url, backoff=Backoff()) as source:
        status = source.until(lambda status: status["state"] == "waiting" and source.told)
        assert source.status()["received"] == 0
        assert len(source.told) == 1 and status["remedy"] in source.told[0]
    return source.told[0], status["retry_in_s"]


@needs_rtsp_server
def test_a_camera_with_only_sound_is_not_a_missing_session():
    with RtspServer(only_sound=True) as server:
        line, wait_s = said(server.url)
    assert "it has no video, only sound; name the address of its video" in line
    assert wait_s > 50


@needs_rtsp_server
def test_a_codec_that_is_unknown_is_named():
    with RtspServer(codec="j2k", **SMALL) as server:
        line, wait_s = said(server.url)
    assert "its video codec, JPEG2000, is unknown here; set the camera to H.264 or H.265" in line
    assert wait_s > 50


@needs_rtsp_server
@pytest.mark.parametrize(
    ("user", "why", "advice"),
    [
        ("viewer:wrong@", "does not accept this user name and password (401)", "@ as %40"),
        ("", "wants a user name and password (401)", "//USER:PASSWORD@HOST"),
    ],
)
def test_a_wrong_password_and_a_missing_one_are_told_apart(user, why, advice):
    with RtspServer(user="viewer", password="c4nary", **SMALL) as server:
        line, _ = said(server.url.replace("//", f"//{user}"))
    assert why in line and advice in line and "wrong" not in line


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_name_that_no_host_has_is_one_line_with_advice(scheme):
    line, _ = said(f"{scheme}://no-such-host.invalid/x")
    assert "there is no host of that name; check the address" in line


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_port_that_refuses_is_one_line_with_advice(scheme):
    line, _ = said(f"{scheme}://127.0.0.1:{free_port()}/x")
    assert "the connection was refused; check that its server runs" in line


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    ("status", "why"), [("403 Forbidden", "forbids this"), ("404 Not Found", "no such stream")]
)
def test_what_a_server_answers_is_said_as_what_it_is(scheme, status, why):
    def serve(client: socket.socket) -> None:
        while request := client.recv(65536).decode():
            number = [line for line in request.split("\r\n") if line.startswith("CSeq")]
            version = "RTSP/1.0" if number else "HTTP/1.1"
            answer = [f"{version} {status}", *number, "Content-Length: 0", "", ""]
            client.sendall("\r\n".join(answer).encode())

    with tcp(serve) as server:
        line, wait_s = said(f"{scheme}://127.0.0.1:{server.port}/x")
    assert why in line and "check" in line
    assert wait_s > 50


def test_a_stream_with_only_sound_is_said_to_be_one():
    held = io.BytesIO()
    with av.open(held, "w", format="mpegts") as output:
        stream = output.add_stream("mp2", rate=48000)
        for number in range(80):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 2 * 1152), np.int16), format="s16", layout="stereo"
            )
            frame.sample_rate, frame.pts = 48000, 1152 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with tcp(lambda client: client.sendall(held.getvalue())) as server:
        line, _ = said(f"tcp://127.0.0.1:{server.port}")
    assert "it has no video, only sound" in line


def test_a_description_that_the_log_has_cut_proves_nothing():
    with RtspTalk(lambda: None) as talk:
        for padding, only_sound in (("", True), ("a=x\n" * 300, False)):
            talk._description = f"SDP:\nv=0\nm=audio 0 RTP/AVP 97\n{padding}"
            assert talk.only_sound == only_sound
