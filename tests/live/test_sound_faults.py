"""Sound that is bad, missing or of another kind at a time: the picture goes on all the same."""

import base64
import contextlib
import random
import re
import socket
import threading
import time

import av
import pytest

from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.runtime.live.sound import (
    Sound,
    SoundMessage,
    SoundPacket,
    SoundStreams,
    SoundTimeline,
)
from streamdiffvsr.runtime.live.sound_mux_child import open_template
from streamdiffvsr.runtime.live.sound_tap_child import SoundTap
from streamdiffvsr.tests.live.beeps import listen
from streamdiffvsr.tests.live.receivers import FPS as FPS_OUT
from streamdiffvsr.tests.live.receivers import feed, look, output, wait_until
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.sounding import FPS, beeping, sounding
from streamdiffvsr.tests.live.stand_ins import KeepingSink
from streamdiffvsr.tests.live.streams import PACKET, tcp
from streamdiffvsr.tests.live.test_sound import CAMERA, in_time


@pytest.mark.slow
def test_a_file_whose_sound_comes_first_loses_no_picture(tmp_path):
    clip, out = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    clip.write_bytes(beeping(3, "matroska", sound_first=True))
    with sounding(str(clip), [out]) as session:
        session.until(lambda status: status["state"] == "ended")
        assert session.session.status()["source"]["received"] == 3 * FPS
    assert in_time(listen(out).offsets_ms(), 2)


@pytest.mark.slow
@needs_rtsp_server
def test_another_kind_of_sound_goes_on_in_another_file(tmp_path):
    with (
        RtspServer(**CAMERA, beep="pcmu") as server,
        sounding(server.url, [tmp_path / "out.mp4"]) as session,
    ):
        session.frames(40)
        server.kill()
        session.until(lambda status: status["state"] == "waiting")
        server.options["beep"] = "aac"
        server.start()
        session.until(lambda status: status["source"]["reconnects"] == 1)
        session.frames(50)
        assert session.session.status()["sinks"][0]["file"] == "out-2.mp4"
        assert session.session.status()["sinks"][0]["sound"][0]["how"] == "copied"
    assert len([line for line in session.told if "going on in 'out-2.mp4'" in line]) == 1
    for name in ("out.mp4", "out-2.mp4"):
        heard = listen(tmp_path / name)
        assert heard.codecs == ["aac"]
        assert in_time(heard.offsets_ms(), 2), (name, heard.offsets_ms())


@pytest.mark.slow
@needs_rtsp_server
def test_a_server_that_refuses_its_sound_gives_the_picture():
    with (
        RtspServer(**CAMERA, beep="aac") as server,
        tcp(without_sound(server.port)) as between,
        sounding(f"rtsp://127.0.0.1:{between.port}/live", [KeepingSink()], hear=print) as session,
    ):
        session.frames(20)
        status = session.session.status()
    assert status["source"]["sound"] == []
    assert status["source"]["reconnects"] == 0
    assert len([line for line in session.told if "does not send it" in line]) == 1


def without_sound(port):
    """Something between client and server that refuses to set up the second stream."""

    def serve(client):
        with socket.create_connection(("127.0.0.1", port)) as server:

            def back():
                try:
                    while data := server.recv(65536):
                        client.sendall(data)
                except OSError:
                    return

            threading.Thread(target=back, daemon=True).start()
            while request := client.recv(65536):
                if request.startswith(b"SETUP") and b"stream=1" in request.split(b"\r\n")[0]:
                    number = re.search(rb"CSeq: *(\d+)", request)[1]
                    refusal = b"RTSP/1.0 500 Internal Server Error\r\nCSeq: " + number
                    client.sendall(refusal + b"\r\n\r\n")
                else:
                    server.sendall(request)

    return serve


@pytest.mark.slow
def test_garbage_in_the_place_of_sound_leaves_the_picture_alone(tmp_path):
    clip, outs = tmp_path / "clip.ts", [tmp_path / "out.mkv", tmp_path / "out.mp4"]
    clip.write_bytes(with_garbage(beeping(5, "mpegts", ["mp2"], rate=44100)))
    with sounding(str(clip), [tmp_path / "out.ts", *outs]) as session:
        session.until(lambda status: status["state"] == "ended")
    status = session.session.status()
    assert status["source"]["received"] == 5 * FPS
    assert status["source"]["damaged"] == 0
    for sink in status["sinks"]:
        assert sink["written"] + sink["dropped"] == status["frames"]
        assert (sink["state"], sink["reopened"], sink["error"]) == ("closed", 0, "")
    assert len(look(outs[0]).numbers) == status["sinks"][1]["written"]


def with_garbage(stream):
    """The transport stream with noise in the payload of its sound (pid 0x101)."""
    rng, made = random.Random(1), bytearray(stream)
    for start in range(0, len(made), PACKET):
        pid = (made[start + 1] & 31) << 8 | made[start + 2]
        begins = made[start + 1] & 0x40
        if pid == 0x101 and not begins and start > 100 * PACKET:
            made[start + 30 : start + PACKET] = rng.randbytes(PACKET - 30)
    return bytes(made)


def test_a_stream_that_cannot_be_decoded_is_left_out_with_one_line(tmp_path):
    told: list[str] = []
    sink = open_sink(str(tmp_path / "out.mp4"), tell=told.append)
    stream, rng = tapped(tmp_path, 1, "flac")[0].streams[0], random.Random(1)
    sink.hear(SoundStreams((stream,), 1))
    for index in range(80):
        feed(sink, [output(index)])
        now = time.monotonic()
        sink.hear(SoundPacket(stream, index / FPS_OUT, 1 / FPS_OUT, rng.randbytes(200), now))
    sink.close(10)
    assert look(tmp_path / "out.mp4").numbers == list(range(80))
    assert len(told) == 1 and "stream 1 of its sound is left out: " in told[0]
    assert sink.status()["sound"] == [] and sink.status()["sound_dropped"] > 50


@pytest.mark.slow
def test_sound_goes_on_where_no_picture_comes(tmp_path):
    out = tmp_path / "out.mkv"
    sink = open_sink(str(out))
    streams, *packets = tapped(tmp_path, 4, "flac")
    sink.hear(streams)
    feed(sink, [output(0)])
    for packet in packets:
        sink.hear(packet)

    def beeps() -> int:
        with contextlib.suppress(av.error.EOFError):  # nothing is in the file yet
            return len(listen(out).beeps)
        return 0

    wait_until(lambda: beeps() >= 3, 20)
    sink.close(10)


def tapped(folder, seconds, codec) -> list[Sound]:
    """The sound of a clip as a source hands it on: its streams, then its packets."""
    clip, heard = folder / "clip.mkv", []
    clip.write_bytes(beeping(seconds, "matroska", [codec]))
    with av.open(str(clip)) as container:
        timeline = SoundTimeline(heard.append, print)
        timeline.frame(0.0, 0.0, time.monotonic())
        tap = SoundTap(
            container,
            container.streams.video[0],
            lambda header, payload=b"": timeline.take(SoundMessage(header, payload)),
            wanted=True,
        )
        for packet in container.demux(tap.streams):
            tap.take(packet)
    return heard[1:]  # without the number of streams alone


@pytest.mark.slow
@needs_rtsp_server
def test_the_picture_does_not_wait_for_sound_at_a_receiver():
    ages = {}
    for beep in (None, "aac"):
        options = {"beep": beep} if beep else {}
        with RtspServer(**CAMERA, **options) as server:
            got = Arrivals()
            with tcp(got.take) as receiver:
                url = f"tcp://127.0.0.1:{receiver.port}"
                with sounding(server.url, [url, got]) as session:
                    session.frames(75)
        ages[beep] = got.delay_s()
    print(ages)
    assert ages["aac"] < ages[None] + 0.5 / FPS, ages


class Arrivals(KeepingSink):
    """Measures how long after its hand-over a picture is at a receiver of a transport stream."""

    def __init__(self):
        super().__init__(name="arrivals")
        self.offered: dict[int, float] = {}  # by its time in ticks
        self.received: list[tuple[int, float]] = []

    def offer(self, frame: OutputFrame) -> None:
        self.offered[round(frame.source.seconds * 90000)] = time.monotonic()

    def take(self, client: socket.socket) -> None:
        held = b""
        while data := client.recv(1 << 16):
            held += data
            while len(held) >= PACKET:
                packet, held = held[:PACKET], held[PACKET:]
                if (packet[1] & 31) << 8 | packet[2] == 0x100 and packet[1] & 0x40:
                    self.received.append((presented(packet), time.monotonic()))

    def delay_s(self) -> float:
        """The median."""
        begin = self.received[0][0] - min(self.offered)  # the first picture is never dropped
        delays = []
        for ticks, at in self.received[15:]:
            nearest = min(self.offered, key=lambda one: abs(one - (ticks - begin)))
            assert abs(nearest - (ticks - begin)) < 90
            delays.append(at - self.offered[nearest])
        return sorted(delays)[len(delays) // 2]


def presented(packet: bytes) -> int:
    """The time in the header of a picture that begins in a packet of a transport stream."""
    start = packet.index(b"\0\0\1\xe0", 4)
    stamp = packet[start + 9 : start + 14]
    parts = (stamp[0] >> 1 & 7, stamp[1], stamp[2] >> 1, stamp[3], stamp[4] >> 1)
    ticks = 0
    for part, bits in zip(parts, (3, 8, 7, 8, 7), strict=True):
        ticks = ticks << bits | part
    return ticks


@pytest.mark.parametrize("lie", ["#EXTM3U\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_what_describes_sound_leads_to_no_other_file(tmp_path, lie):
    """As a capturing process would write it that a hostile stream has taken over."""
    with tcp(lambda client: asked.append(client.recv(100))) as catcher:
        asked: list[bytes] = []
        text = lie.format(f"http://127.0.0.1:{catcher.port}/a.ts")
        with pytest.raises(av.error.FFmpegError):
            open_template(base64.b64encode(text.encode()).decode())
        assert not asked
