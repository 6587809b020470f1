"""Tests SRT with a real peer on loopback: in and out, calling and listening, with a passphrase."""

import contextlib
import shutil
import signal
import subprocess
import time

import av
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink, open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.receivers import (
    children,
    feed,
    look,
    output,
    ports_of,
    running,
    wait_until,
)
from streamdiffvsr.tests.live.relaying import (
    FFMPEG,
    QUIET,
    free_udp_port,
    relays,
    srt_receiver,
    srt_sender,
)
from streamdiffvsr.tests.live.streams import (
    Tcp,
    playlist,
    silent,
    transport_stream,
    without_packets,
)
from streamdiffvsr.tests.live.watching import watch

PASSPHRASE = "Zx9canary'22"
SIZE = (176, 320)
STREAM_ID = "publish:cam:me:Zx9streamid"
MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S"
 minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.42c01e">
<BaseURL>{}</BaseURL><SegmentTemplate media="$Number$.m4s" initialization="i.mp4" duration="1"
 startNumber="1"/></Representation></AdaptationSet></Period></MPD>"""
SECRET = "passphrase=Zx9canary%2722"


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.ts"
    path.write_bytes(transport_stream(90, fps=15, gop=15))
    return path


def can_hide() -> bool:
    try:
        parse_target(f"srt://h:1?{SECRET}")
    except StreamDiffVSRError:
        return False
    return True


def passing_on(port: int) -> list[str]:
    """The command of an ffmpeg that sends bytes from a pipe as they are to its caller."""
    raw = ["-f", "data", "-raw_packet_size", "1316", "-i", "pipe:0", "-map", "0", "-c", "copy"]
    raw += ["-flush_packets", "1", "-f", "data", f"srt://127.0.0.1:{port}?mode=listener"]
    return [FFMPEG, *QUIET, *raw]


def arguments_of_relays() -> str:
    return " ".join(" ".join(process.cmdline()) for process in relays())


needs_hidden = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and can_hide()), reason="needs an ffmpeg that heeds presets"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ask", ["", pytest.param(f"{SECRET}&streamid={STREAM_ID}", marks=needs_hidden)]
)
def test_a_receiver_gets_every_frame_and_no_argument_has_a_secret(tmp_path, ask):
    port, told = free_udp_port(), []
    secret = SECRET if ask else ""
    with srt_receiver(
        f"srt://127.0.0.1:{port}?mode=listener&{secret}", tmp_path / "got.ts"
    ) as peer:
        sink = open_sink(f"srt://127.0.0.1:{port}?latency=60000&{ask}", tell=told.append)
        feed(sink, [output(index, seconds=index / 15) for index in range(45)])
        seen = arguments_of_relays()
        feed(sink, [output(index, seconds=index / 15) for index in range(45, 90)])
        sink.close(10)
        peer.wait(10)
    assert f"127.0.0.1:{port}" in seen
    assert "Zx9" not in seen
    got = look(tmp_path / "got.ts")
    assert got.numbers == list(range(90))
    assert got.monotone and got.keys[0]
    assert got.seconds[-1] - got.seconds[0] == pytest.approx(89 / 15, abs=0.002)
    with av.open(str(tmp_path / "got.ts")) as container:
        assert all(packet.dts == packet.pts for packet in container.demux(video=0))
    assert (told, sink.status()["state"], sink.status()["error"]) == ([], "closed", "")
    assert relays() == []


@pytest.mark.slow
def test_a_sink_that_listens_waits_for_its_receiver(tmp_path):
    port = free_udp_port()
    sink = open_sink(f"srt://127.0.0.1:{port}?mode=listener")
    sink.offer(output(0))
    wait_until(lambda: relays())
    assert sink.status()["state"] == "waiting"
    with srt_receiver(f"srt://127.0.0.1:{port}", tmp_path / "got.ts") as peer:
        wait_until(lambda: sink.status()["written"] == 1)
        feed(sink, [output(index) for index in range(1, 30)])
        sink.close(10)
        peer.wait(10)
    assert look(tmp_path / "got.ts").numbers == list(range(30))


@pytest.mark.slow
def test_a_receiver_and_an_ffmpeg_that_are_killed_are_replaced(tmp_path):
    port, told, index = free_udp_port(), [], 0
    sink = EncodedSink(
        parse_target(f"srt://127.0.0.1:{port}"), tell=told.append, backoff=Backoff(0.2, 0.5)
    )

    def feed_until(done):
        nonlocal index
        until = time.monotonic() + 60
        while not done():
            feed(sink, [output(index)])
            index += 1
            assert time.monotonic() < until, (sink.status(), told)

    for victim in ("receiver", "ffmpeg", ""):
        with srt_receiver(f"srt://127.0.0.1:{port}?mode=listener", tmp_path / "got.ts") as peer:
            feed_until(lambda: sink.status()["state"] == "open")
            back = sink.status()["written"]
            feed_until(lambda back=back: sink.status()["written"] >= back + 20)
            if not victim:
                sink.close(10)
                peer.wait(10)
                break
            (peer if victim == "receiver" else relays()[0]).kill()
            feed_until(lambda: sink.status()["state"] == "retrying")
    got = look(tmp_path / "got.ts")
    assert got.keys[0] and got.monotone
    assert got.numbers[-1] == index - 1
    assert any("killed by signal 9" in line for line in told)
    assert sink.status()["reopened"] == 2


@pytest.mark.slow
def test_ffmpeg_ends_with_the_process_that_started_it(tmp_path):
    port = free_udp_port()
    with srt_receiver(f"srt://127.0.0.1:{port}?mode=listener", tmp_path / "got.ts"):
        sink = open_sink(f"srt://127.0.0.1:{port}")
        feed(sink, [output(index) for index in range(5)])
        (program,) = relays()
        children()[0].kill()
        program.wait(5)
        sink.close(5)


@pytest.mark.slow
def test_nothing_that_is_closed_leaves_a_process_or_takes_long():
    for kind in ("listener", "caller"):
        sink = open_sink(f"srt://127.0.0.1:{free_udp_port()}?mode={kind}")
        sink.offer(output(0))
        wait_until(lambda: relays())
        began = time.monotonic()
        sink.close(2)
        assert time.monotonic() - began < 2.5
        wait_until(lambda: not relays() and not children())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        ("passphrase=another_one", SECRET, "the passphrases of the two ends differ"),
        ("", SECRET, "only one of the two ends has a passphrase"),
        ("passphrase=another_one", "", "only one of the two ends has a passphrase"),
    ],
)
def test_why_a_peer_is_refused(film, theirs, ours, says):
    port = free_udp_port()
    with (
        srt_sender(f"srt://127.0.0.1:{port}?mode=listener&{theirs}", film),
        watch(f"srt://127.0.0.1:{port}?{ours}") as source,
    ):
        source.until(lambda status: says in status["error"])
        assert not any("Zx9" in line for line in source.told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("srt://127.0.0.1:{}", "its server does not answer"),
        ("srt://no.such.host.invalid:{}", "there is no host of that name"),
        ("srt://192.0.2.77:{}?mode=listener", "this machine does not have that address"),
    ],
)
def test_why_there_is_no_peer(address, says):
    with watch(address.format(free_udp_port())) as source:
        source.until(lambda status: says in status["error"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["caller", "listener"])
def test_a_source_plays_and_no_argument_has_a_secret(film, mode):
    port, other = free_udp_port(), "listener" if mode == "caller" else "caller"
    with (
        watch(f"srt://127.0.0.1:{port}?mode={mode}&{SECRET}&streamid=Zx9stream") as source,
        srt_sender(f"srt://127.0.0.1:{port}?mode={other}&{SECRET}", film),
    ):
        first = source.frame()
        assert (first.image.shape[:2], first.damaged) == (SIZE, False)
        seen = arguments_of_relays()
        assert "-f concat" in seen and "Zx9" not in seen
        source.until(lambda status: "its sender has ended" in status["error"])
        assert source.status()["received"] >= 85
        assert source.status()["damaged"] == 0
    assert relays() == []


@pytest.mark.slow
def test_a_source_whose_ffmpeg_is_killed_plays_again(film):
    port = free_udp_port()
    with watch(f"srt://127.0.0.1:{port}?mode=listener") as source:
        for _ in range(2):
            with srt_sender(f"srt://127.0.0.1:{port}", film):
                epoch = source.frame().epoch
                relays()[0].kill()
                source.until(lambda status: status["state"] != "playing")
        assert any("killed by signal 9" in line for line in source.told)
        with srt_sender(f"srt://127.0.0.1:{port}", film):
            assert source.frame(lambda frame: frame.epoch > epoch)


@pytest.mark.slow
def test_frames_with_lost_packets_are_flagged():
    whole = transport_stream(150, fps=15, gop=15)
    port, damaged = free_udp_port(), without_packets(whole, 0.02)
    with running(*passing_on(port), stdin=subprocess.PIPE, bufsize=0) as sender:
        wait_until(lambda: port in ports_of(sender.pid))
        with watch(f"srt://127.0.0.1:{port}") as source:
            for start in range(0, len(damaged), 1316):
                sender.stdin.write(damaged[start : start + 1316])
                time.sleep(10 * 1316 / len(damaged))
            status = source.until(lambda status: status["received"] > 30)
    assert status["damaged"] > 5


@pytest.mark.slow
def test_a_receiver_that_freezes_is_noticed(tmp_path):
    port, index = free_udp_port(), 0
    with srt_receiver(f"srt://127.0.0.1:{port}?mode=listener", tmp_path / "got.ts") as peer:
        sink = EncodedSink(parse_target(f"srt://127.0.0.1:{port}"), backoff=Backoff(5, 5))
        feed(sink, [output(number) for number in range(10)])
        peer.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        while sink.status()["state"] == "open":
            feed(sink, [output(10 + index)])
            index += 1
            time.sleep(1 / 30)
        took = time.monotonic() - frozen
        peer.send_signal(signal.SIGCONT)
        sink.close(5)
    assert took < 15


@pytest.mark.slow
@pytest.mark.parametrize("content", ["playlist", "script", "manifest"])
def test_what_comes_over_srt_leads_nowhere_else(content):
    """A list in place of a transport stream opens no address and no file."""
    catcher = Tcp(silent)
    trap = f"tcp://127.0.0.1:{catcher.port}"
    texts = {
        "playlist": playlist(f"http://127.0.0.1:{catcher.port}/a.ts", trap),
        "script": f"ffconcat version 1.0\nfile '{trap}'\n",
        "manifest": MANIFEST.format(f"http://127.0.0.1:{catcher.port}/"),
    }
    port, text = free_udp_port(), texts[content].encode()
    try:
        with running(*passing_on(port), stdin=subprocess.PIPE, bufsize=0) as sender:
            sender.stdin.write(text)
            wait_until(lambda: port in ports_of(sender.pid))
            with watch(f"srt://127.0.0.1:{port}") as source:
                error = ""
                while not error:
                    with contextlib.suppress(BrokenPipeError):  # it was refused, and has ended
                        sender.stdin.write(b"\n" * 1316)
                    time.sleep(0.01)
                    error = source.status()["error"]
                assert "does not answer" not in error
                assert source.status()["received"] == 0
        assert catcher.accepted == 0
    finally:
        catcher.close()
