"""Sound over SRT and WHIP: counted and measured by the receiver."""

import contextlib

import pytest

from streamdiffvsr.tests.live.beeps import listen
from streamdiffvsr.tests.live.receivers import wait_until
from streamdiffvsr.tests.live.relaying import free_udp_port, srt_receiver, srt_sender, whip_server
from streamdiffvsr.tests.live.sounding import RATE, beeping, sounding
from streamdiffvsr.tests.live.test_sound import in_time

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("codec", ["aac", "pcm_mulaw"])
def test_an_srt_receiver_gets_the_sound_at_its_time(tmp_path, codec):
    clip, port = tmp_path / "clip.mov", free_udp_port()
    clip.write_bytes(beeping(6, "mov", [codec], rate=RATE if codec == "aac" else 8000))
    got = tmp_path / "got.ts"
    with srt_receiver(f"srt://127.0.0.1:{port}?mode=listener", got) as peer:
        with sounding(str(clip), [f"srt://127.0.0.1:{port}"]) as session:
            session.until(lambda status: status["state"] == "ended")
        peer.wait(10)
    heard = listen(got)
    assert heard.codecs == ["aac"]
    assert in_time(heard.offsets_ms(begin=0.5), 4), heard.offsets_ms()


def test_the_sound_of_an_srt_source_is_kept(tmp_path):
    film, out, port = tmp_path / "film.ts", tmp_path / "out.mkv", free_udp_port()
    film.write_bytes(beeping(8, "mpegts"))
    with (
        srt_sender(f"srt://127.0.0.1:{port}?mode=listener", film),
        sounding(f"srt://127.0.0.1:{port}", [out]) as session,
    ):
        session.frames(50)
    heard = listen(out)
    assert heard.codecs == ["aac"]
    assert in_time(heard.offsets_ms(), 3), heard.offsets_ms()


@pytest.mark.parametrize(
    ("codec", "layout", "rate", "how"),
    [
        ("aac", "mono", RATE, "transcoded"),
        ("pcm_mulaw", "mono", 8000, "transcoded"),
        ("libopus", "mono", RATE, "transcoded"),  # browsers are sent two channels
        ("libopus", "stereo", RATE, "copied"),
    ],
)
def test_a_whip_server_gets_all_sound(tmp_path, codec, layout, rate, how):
    clip = tmp_path / "clip.nut"
    clip.write_bytes(beeping(6, "nut", [codec], rate=rate, layout=layout))
    with whip_server() as server:
        with sounding(str(clip), [f"whip://{server.where}"]) as session:
            session.until(lambda status: status["state"] == "ended")
            sink = session.session.status()["sinks"][0]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: server.seen()[0]["ended"], 10)
        (stream,) = server.seen()
    assert sink["sound"][0]["how"] == how
    assert stream["sounds"] / RATE > 5.5
    # Less what the receiver's decoder, on the same cores, has not taken in time.
    assert len(stream["numbers"]) > 0.7 * sink["written"] > 30
