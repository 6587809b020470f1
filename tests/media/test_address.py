"""Tests what may be written for a live source, and what each form becomes."""

import sys

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.addresses import parse_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="devices of Linux")


@pytest.mark.parametrize(
    ("text", "kind", "form", "listens"),
    [
        ("rtsp://h/live", "rtsp", "rtsp", False),
        ("rtsps://u:p@h:322/live", "rtsp", "rtsp", False),
        ("http://h:8080/stream.mjpg", "http", None, False),
        ("https://h/a/b.M3U8?token=x", "hls", "hls", False),
        ("rtmp://h/app/key", "rtmp", "flv", False),
        ("udp://239.0.0.1:1234", "udp", None, True),
        ("udp://@:1234", "udp", None, True),
        ("rtp://127.0.0.1:5004", "udp", None, True),
        ("tcp://h:1", "tcp", None, False),
        ("tcp://0.0.0.0:1?listen=1", "tcp", None, True),
        ("testsrc", "test", "lavfi", False),
    ],
)
def test_every_form_has_a_kind(text, kind, form, listens):
    address = parse_source(text)
    assert (address.kind, address.format, address.listens) == (kind, form, listens)
    if kind != "test":
        assert address.url == text


def test_the_pattern_has_a_size_and_a_rate():
    url = parse_source("testsrc=320x180@15").url
    assert url == "testsrc2=size=320x180:rate=15,realtime"


@linux
def test_devices_have_numbers_and_names(monkeypatch):
    assert parse_source("/dev/video3").url == "/dev/video3"
    assert parse_source("webcam:2").url == "/dev/video2"
    assert parse_source("webcam:HD Pro").url == "name:HD Pro"
    monkeypatch.setenv("DISPLAY", "localhost:10.0")
    assert parse_source("screen:1").url == "localhost:10.1"
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(StreamDiffVSRError, match="no X display"):
        parse_source("screen")


@pytest.mark.parametrize(
    ("platform", "webcam", "screen"),
    [("win32", "number:0", "desktop"), ("darwin", "0:none", "Capture screen 0:none")],
)
def test_devices_of_other_platforms(monkeypatch, platform, webcam, screen):
    monkeypatch.setattr(sys, "platform", platform)
    assert parse_source("webcam:0").url == webcam
    assert parse_source("screen").url == screen


def test_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    clip = tmp_path / "a:b.mp4"
    clip.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    address = parse_source("a:b.mp4", {"loop": "1"})
    assert (address.kind, address.url, address.loop) == ("file", str(clip), True)
    with pytest.raises(StreamDiffVSRError, match=r"'no\.mp4': there is no such file"):
        parse_source("no.mp4")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "accepted are rtsp://"),
        ("testscr", "accepted are rtsp://"),
        ("sctp://h:1", "accepted are rtsp://"),
        ("file:///etc/passwd", "accepted are rtsp://"),
        ("concat:a.ts|b.ts", "accepted are rtsp://"),
        ("rtsp:/h/x", "accepted are rtsp://"),
        ("rtsp:///x", "names no host"),
        ("rtsp://u:p/w@h/x", "%2F"),
        ("rtsp://h:99999/x", "host or port"),
        ("http://h/a b", "%20"),
        ("webcam:", "which webcam"),
        ("testsrc=0x0", "testsrc=640x360@30"),
        ("testsrc=99999x2", "at most 4096"),
        ("testsrc=64x64@0", "testsrc=640x360@30"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, why):
    with pytest.raises(UsageError, match=why) as caught:
        parse_source(text)
    assert "\n" not in str(caught.value)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "option", "hint"),
    [
        ("rtsp://h/x", "rtsp_transprot", "did you mean rtsp_transport"),
        ("rtsp://h/x", "stimeout", "stimeout"),
        ("rtsp://h/x", "protocol_whitelist", "an rtsp source does not have it"),
        ("http://h/x", "rtsp_transport", "a http source does not have it"),
        ("testsrc", "framerate", "known are decoder_threads"),
    ],
)
def test_unknown_options_are_refused_with_the_nearest_known_ones(text, option, hint):
    with pytest.raises(UsageError, match=hint):
        parse_source(text, {option: "1"})


def test_options_replace_defaults_but_not_bounds():
    address = parse_source("rtsp://h/x", {"rtsp_transport": "udp", "decoder_threads": "1"})
    assert address.options["rtsp_transport"] == "udp"
    assert address.options["fpsprobesize"] == "0"
    assert "file" not in address.options["protocol_whitelist"].split(",")
    assert address.decoder_threads == 1
    assert "decoder_threads" not in address.options
    with pytest.raises(UsageError, match="0 to 64"):
        parse_source("rtsp://h/x", {"decoder_threads": "many"})


def test_no_secret_shows():
    address = parse_source("https://u:p4ss@h/x?token=s3cret", {"headers": "Authorization: s3cret"})
    assert "p4ss" not in repr(address)
    assert "s3cret" not in repr(address)
    assert address.shown == "https://***@h/x?token=***"
