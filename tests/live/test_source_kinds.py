"""Live sources that are no stream of a camera: patterns, files, webcams, playlists."""

import functools
import http.server
import sys
import threading
import time

import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.benchmarks import clock_code
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.streams import (
    playlist,
    transport_stream,
)
from streamdiffvsr.tests.live.watching import ended, watch


def test_the_pattern_needs_no_server():
    with watch("testsrc=160x96@30") as source:
        frames = [source.frame() for _ in range(10)]
    assert frames[0].size == (96, 160)
    assert not any(frame.damaged for frame in frames)
    assert source.status()["codec"] == "rawvideo" and "96 rawvideo" in source.told[-1]
    assert (frames[-1].image != frames[0].image).any()


def test_a_file_plays_at_its_pace_and_ends(tmp_path):
    clip = tmp_path / "clip.ts"
    clip.write_bytes(transport_stream(45))
    with watch(str(clip)) as source:
        first = source.frame()
        began = time.monotonic()
        assert isinstance(ended(source), EOFError)
        assert 1.2 < time.monotonic() - began < 4
        assert source.status()["received"] == 45
        assert source.status()["state"] == "ended"
    assert clock_code.read(first.image) is not None


def test_a_file_may_begin_again(tmp_path):
    clip = tmp_path / "clip.ts"
    clip.write_bytes(transport_stream(15))
    with watch(str(clip), {"loop": "1"}) as source:
        last = source.frame(lambda frame: frame.epoch == 2)
        assert last.seconds == pytest.approx(1.0, abs=0.3)
        assert source.status()["attempts"] == 1


def test_a_file_without_video_is_an_error_at_once(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all" * 99)
    with watch(str(bad)) as source:
        error = ended(source)
    assert isinstance(error, StreamDiffVSRError)
    assert str(error).startswith(f"could not read {str(bad)!r}: it is not a video file")


@pytest.mark.skipif(sys.platform != "linux", reason="devices of Linux")
def test_a_missing_webcam_lists_those_there_are():
    for text in ("/dev/video87", "webcam:No Such Camera"):
        with watch(text) as source:
            error = ended(source)
        assert "there is no such camera; " in str(error)
        assert "no camera was found here" in str(error) or "here are /dev/video" in str(error)


def serve_folder(folder):
    """An HTTP server of a folder, quiet."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: 0})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_playlist_plays_and_one_of_local_files_is_denied(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    stream = transport_stream(60)
    (secret / "local.ts").write_bytes(stream)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.ts").write_bytes(stream)
    (shared / "good.m3u8").write_text(playlist("a.ts"))
    (shared / "bad.m3u8").write_text(playlist(f"file://{secret}/local.ts"))
    (shared / "worse.m3u8").write_text(playlist(f"concat:{secret}/local.ts"))
    server = serve_folder(shared)
    base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with watch(f"{base}/good.m3u8") as source:
            assert clock_code.read(source.frame().image) is not None
        for name in ("bad", "worse"):
            with watch(f"{base}/{name}.m3u8") as source:
                error = ended(source)
                assert source.status()["received"] == 0
            assert "a local file" in str(error)
        with watch(f"{base}/nothing.m3u8", backoff=Backoff()) as source:
            status = source.until(lambda status: status["state"] == "waiting")
            assert "404" in status["error"]
            assert status["retry_in_s"] > 55
    finally:
        server.shutdown()
