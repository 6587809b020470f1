"""Sound of a live source at its sinks: present, at its time, and never in the picture's way."""

import contextlib
import itertools
import os
import statistics
import subprocess

import pytest

from streamdiffvsr.tests.live.beeps import listen
from streamdiffvsr.tests.live.receivers import ffmpeg_listener, needs_ffmpeg
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.sounding import beeping, sounding
from streamdiffvsr.tests.live.streams import at_pace, tcp
from streamdiffvsr.tests.live.test_sink_network import addresses

CAMERA = {"size": "160x90", "fps": 15, "gop": 15}
IN_TIME_MS = 40
MINUTES = float(os.environ.get("STREAMDIFFVSR_SOAK_MINUTES", "1"))


def in_time(offsets, count):
    """Returns whether there are that many, all within the promise."""
    return len(offsets) >= count and all(abs(offset) <= IN_TIME_MS for offset in offsets)


@pytest.mark.slow
@needs_rtsp_server
@pytest.mark.parametrize("codec", ["aac", "pcmu", "g726", "opus"])
def test_a_cameras_sound_is_in_every_file_at_its_time(tmp_path, codec):
    files = [tmp_path / f"out.{ending}" for ending in ("mp4", "mkv", "mov", "ts")]
    playlist = tmp_path / "live.m3u8"
    with (
        RtspServer(**CAMERA, beep=codec) as server,
        sounding(server.url, [*files, playlist]) as session,
    ):
        session.frames(90)
        status = session.session.status()
    assert status["source"]["sound"][0]["codec"].startswith(
        {"aac": "aac", "pcmu": "pcm_mulaw", "g726": "adpcm_g726", "opus": "opus"}[codec]
    )
    for path in [*files, playlist]:
        heard = listen(path)
        assert len(heard.codecs) == 1
        # Before, pictures too have the times of a clock that is not matched yet.
        assert in_time(heard.offsets_ms(begin=0.5), 3), (path.name, heard.offsets_ms())
    for sink in status["sinks"]:
        (about,) = sink["sound"]
        copied = {
            "aac": True,
            "pcmu": sink["name"].endswith(("mkv", "mov")),
            "g726": sink["name"].endswith(("mkv", "mov")),  # as samples
            "opus": sink["name"].endswith(("mkv", "mp4")),
        }[codec]
        assert about["how"] == ("copied" if copied else "transcoded")
        assert sink["sound_written"] > 10
        assert sink["sound_dropped"] == 0


@pytest.mark.slow
@needs_rtsp_server
@pytest.mark.parametrize("codec", ["aac", "pcmu"])
def test_sound_stays_in_time_over_a_reconnection_and_an_engine_that_drops(tmp_path, codec):
    file = tmp_path / "out.mp4"
    with (
        RtspServer(**CAMERA, beep=codec) as server,
        sounding(server.url, [file], cost_s=0.2) as session,  # three periods a frame
    ):
        session.frames(20)
        server.kill()
        session.until(lambda status: status["state"] == "waiting")
        server.start()
        session.until(lambda status: status["source"]["reconnects"] == 1)
        session.frames(20)
        dropped = session.session.status()["dropped"]
    heard = listen(file)
    assert dropped > 40
    times = [at for at, _ in heard.shown]
    lost_at, back = max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0])
    assert back - lost_at > 0.5
    assert in_time(heard.offsets_ms(begin=0.5, end=lost_at), 3), heard.offsets_ms()
    assert in_time(heard.offsets_ms(begin=back + 0.5), 3), heard.offsets_ms()
    unbroken = [gap for gap in heard.gaps if not lost_at - 0.5 < gap[0] < back + 0.5]
    assert not [lasted for _, lasted in unbroken if lasted > 0.1]  # one as the clocks are matched
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp", "udp"])
@pytest.mark.parametrize("codec", ["aac", "pcm_mulaw"])
def test_a_receiver_gets_the_sound_at_its_time(tmp_path, scheme, codec):
    clip = tmp_path / "clip.mov"
    clip.write_bytes(beeping(6, "mov", [codec], rate=48000 if codec == "aac" else 8000))
    url, listen_at, port, options = addresses(scheme)
    with ffmpeg_listener(listen_at, port, tmp_path / "got.mkv", *options, streams="0") as receiver:
        with sounding(str(clip), [url]) as session:
            session.until(lambda status: status["state"] == "ended")
        with contextlib.suppress(subprocess.TimeoutExpired):
            receiver.wait(10)
    heard = listen(tmp_path / "got.mkv")
    kept = scheme == "rtsp" and codec == "pcm_mulaw"
    assert heard.codecs == ["pcm_mulaw" if kept else "aac"]
    assert in_time(heard.offsets_ms(begin=0.5), 4), heard.offsets_ms()


@pytest.mark.slow
@needs_ffmpeg
def test_a_receiver_that_takes_one_stream_gets_the_first(tmp_path):
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(beeping(4, "matroska", ["aac", "libopus"]))
    url, listen_at, port, options = addresses("rtmp")
    with ffmpeg_listener(listen_at, port, tmp_path / "got.mkv", *options, streams="0") as receiver:
        with sounding(str(clip), [url]) as session:
            session.until(lambda status: status["state"] == "ended")
        receiver.wait(10)
    assert listen(tmp_path / "got.mkv").codecs == ["aac"]
    assert len([line for line in session.told if "stream 2 of its sound is left out" in line]) == 1


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("kind", ["file", "http", "hls", "udp", "rtmp"])
def test_the_sound_of_every_kind_of_source_is_kept(tmp_path, kind):
    out = tmp_path / "out.mkv"
    with playing(kind, tmp_path, beeping(6, "mpegts")) as url, sounding(url, [out]) as session:
        session.frames(60)
        if kind == "file":
            session.until(lambda status: status["state"] == "ended")
    heard = listen(out)
    assert heard.codecs == ["aac"]
    assert in_time(heard.offsets_ms(), 3), heard.offsets_ms()


@contextlib.contextmanager
def playing(kind, folder, stream):
    """Yields the address of a source of that kind which plays an MPEG transport stream."""
    from streamdiffvsr.tests.live.receivers import free_port
    from streamdiffvsr.tests.live.streams import playlist
    from streamdiffvsr.tests.live.test_source_kinds import serve_folder

    clip = folder / "clip.ts"
    clip.write_bytes(stream)
    if kind == "file":
        yield str(clip)
    elif kind == "hls":
        (folder / "list.m3u8").write_text(playlist("clip.ts"))
        server = serve_folder(folder)
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/list.m3u8"
        finally:
            server.shutdown()
    elif kind == "http":

        def answer(client):
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
            at_pace(stream, 6)(client)

        with tcp(answer) as server:
            yield f"http://127.0.0.1:{server.port}/live.ts"
    else:
        port = free_port()
        url = f"udp://127.0.0.1:{port}" if kind == "udp" else f"rtmp://127.0.0.1:{port}/app/k"
        where = [f"{url}?pkt_size=1316"] if kind == "udp" else [url]
        form = ["-f", "mpegts"] if kind == "udp" else ["-listen", "1", "-f", "flv"]
        command = ["ffmpeg", "-loglevel", "error", "-re", "-stream_loop", "9", "-i", str(clip)]
        sender = subprocess.Popen([*command, "-c", "copy", *form, *where])
        try:
            yield url
        finally:
            sender.kill()
            sender.wait()


@pytest.mark.slow
def test_every_stream_is_kept(tmp_path):
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(beeping(3, "matroska", ["aac", "libopus"]))
    outs = [tmp_path / "out.mkv", tmp_path / "out.mp4", tmp_path / "out.ts"]
    with sounding(str(clip), outs) as session:
        session.until(lambda status: status["state"] == "ended")
    assert listen(outs[0]).codecs == ["aac", "opus"]
    assert listen(outs[1]).codecs == ["aac", "opus"]
    assert listen(outs[2]).codecs == ["aac", "aac"]
    for stream in (0, 1):
        heard = listen(outs[2], stream=stream)
        assert in_time(heard.offsets_ms(), 2), heard.offsets_ms()


@pytest.mark.slow
def test_sound_that_is_late_stays_late(tmp_path):
    clip, out = tmp_path / "clip.ts", tmp_path / "out.mkv"
    clip.write_bytes(beeping(4, "mpegts", late_s=0.2))
    with sounding(str(clip), [out]) as session:
        session.until(lambda status: status["state"] == "ended")
    offsets = listen(out).offsets_ms()
    assert len(offsets) >= 3
    assert all(abs(offset - 200) <= IN_TIME_MS for offset in offsets), offsets


@pytest.mark.slow
def test_without_hearing_nothing_is_different(tmp_path):
    clip, out = tmp_path / "clip.ts", tmp_path / "out.mkv"
    clip.write_bytes(beeping(2, "mpegts"))
    with sounding(str(clip), [out], hear=None) as session:
        session.until(lambda status: status["state"] == "ended")
        status = session.session.status()
    assert listen(out).codecs == []
    assert status["source"]["sound"] == []
    assert status["sinks"][0]["sound"] == []


@pytest.mark.slow
def test_a_clock_of_the_sound_that_runs_apart_is_followed(tmp_path):
    clip, out = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    clip.write_bytes(beeping(12, "matroska", ["pcm_s16le"], slow=1.01))  # 120 ms at the end
    with sounding(str(clip), [out]) as session:
        session.until(lambda status: status["state"] == "ended")
    heard = listen(out)
    assert heard.codecs == ["aac"]
    assert in_time(heard.offsets_ms(), 11), heard.offsets_ms()
    assert heard.gaps == []


@pytest.mark.slow
@pytest.mark.timeout(90 * MINUTES + 120)
@needs_rtsp_server
def test_sound_does_not_drift(tmp_path):
    files = [tmp_path / "out.mkv", tmp_path / "out.mp4"]
    with (
        RtspServer(**CAMERA, beep="pcmu") as server,
        sounding(server.url, files, cost_s=0.1, stall_timeout_s=15) as session,  # a busy machine's
    ):
        session.stop.wait(60 * MINUTES)
        status = session.session.status()
    assert status["source"]["reconnects"] == 0
    for path, sink in zip(files, status["sinks"], strict=True):
        offsets = listen(path).offsets_ms(begin=2)
        count = len(offsets) // 4
        early, late = (statistics.median(part) for part in (offsets[:count], offsets[-count:]))
        print(f"{path.name}: {len(offsets)} beeps, {min(offsets):.1f} to {max(offsets):.1f} ms")
        print(f"{path.name}: {early:.2f} ms in the first quarter, {late:.2f} ms in the last")
        assert in_time(offsets, 60 * MINUTES - 10)
        assert abs(late - early) < 5
        assert sink["sound_dropped"] == 0
