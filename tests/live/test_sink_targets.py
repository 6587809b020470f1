"""Tests what is understood as a target, what is refused at once, and what is shown of it."""

import os

import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.tests.live.receivers import children, output


@pytest.mark.parametrize(
    ("name", "kind", "muxer"),
    [
        ("a.mp4", "file", "mp4"),
        ("a.MKV", "file", "matroska"),
        ("a.mov", "file", "mov"),
        ("a.ts", "file", "mpegts"),
        ("a.m3u8", "hls", "hls"),
        ("new/", "images", "png"),
        ("new/%05d.jpg", "images", "mjpeg"),
        ("%d.png", "images", "png"),
        ("", "images", "png"),  # a folder that is there
    ],
)
def test_names_of_files(tmp_path, name, kind, muxer):
    target = parse_target(os.path.join(tmp_path, name))
    assert (target.kind, target.format) == (kind, muxer)
    assert os.path.isabs(target.where)


@pytest.mark.parametrize(
    ("url", "muxer", "opened"),
    [
        ("rtsp://h/live", "rtsp", "rtsp://h/live"),
        ("rtsps://u:p@h:322/live", "rtsp", "rtsps://u:p@h:322/live"),
        ("rtmp://h/app/key", "flv", "rtmp://h/app/key"),
        ("RTMPS://h/app/key", "flv", "RTMPS://h/app/key"),
        ("udp://239.0.0.1:5000", "mpegts", "udp://239.0.0.1:5000?pkt_size=1316"),
        ("udp://[::1]:5000?ttl=2", "mpegts", "udp://[::1]:5000?ttl=2&pkt_size=1316"),
        ("udp://h:5000?pkt_size=188", "mpegts", "udp://h:5000?pkt_size=188"),
        ("tcp://h:5000", "mpegts", "tcp://h:5000"),
    ],
)
def test_addresses(url, muxer, opened):
    target = parse_target(url)
    assert (target.kind, target.format, target.where) == ("network", muxer, opened)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.avi", "its ending is unknown; use a file (.mp4, .m4v, .mov, .mkv, .ts), FILE.m3u8"),
        ("noending", "its ending is unknown"),
        ("ftp://h/x.ts", "nothing is sent to ftp://; use"),
        ("srt://h", "it names no port; write srt://HOST:PORT"),
        ("udp://h", "it names no port; write udp://HOST:PORT"),
        ("tcp://h:99999", "its host or port has no meaning"),
        ("rtsp:///x", "it names no host"),
        ("out.png", "needs one place for their number; use out-%06d.png"),
        ("%d-%d.png", "needs one place for their number"),
        ("%s-%d.png", "needs one place for their number"),
        ("", "an empty name is no output"),
    ],
)
def test_what_is_no_output_is_a_usage_error(text, says):
    with pytest.raises(UsageError) as error:
        parse_target(text)
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["no/a.mp4", "no/a.m3u8", "no/folder/%d.png"])
def test_a_missing_folder_is_told_at_once(tmp_path, name):
    with pytest.raises(StreamDiffVSRError, match=r"there is no folder .*; create it first"):
        open_sink(os.path.join(tmp_path, name))


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "images/000007.png"])
def test_what_exists_is_refused_without_overwrite(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"kept")
    target = f"{path.parent}{os.sep}" if path.suffix == ".png" else str(path)
    with pytest.raises(StreamDiffVSRError, match=r"it already exists; .*overwrite=True"):
        open_sink(target)
    sink = open_sink(target, overwrite=True)
    sink.close(1)
    assert path.read_bytes() == b"kept"  # until the first frame


def test_other_images_in_the_folder_are_in_nobodys_way(tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"")
    assert parse_target(f"{tmp_path}{os.sep}frame-%06d.png").kind == "images"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://me:hunter22@h/live", "rtsp://***@h/live"),
        ("rtmp://h/app/hunter22", "rtmp://h/app/***"),
        ("tcp://h:1?token=hunter22", "tcp://h:1?token=***"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    target = parse_target(url)
    assert target.shown == shown
    assert "hunter22" not in repr(target)
    # A server may answer with a secret that stands in no address.
    assert target.clean("no such stream: hunter22\nat all") == "no such stream: *** at all"


def test_a_secret_that_is_escaped_in_the_address_is_hidden_in_both_forms():
    target = parse_target("rtsp://me:p%40ss%2Fword@h/live")
    assert target.clean("p%40ss%2Fword or p@ss/word") == "*** or ***"


@pytest.mark.parametrize(
    "url", ["ftp://me:hunter22@h/x", "udp://me:hunter22@h", "srt://me:hunter22@h"]
)
def test_a_refusal_shows_no_secrets(url):
    with pytest.raises(UsageError) as error:
        parse_target(url)
    assert "hunter22" not in str(error.value)


def test_null_counts_and_starts_nothing():
    sink = open_sink("null")
    assert sink.status()["state"] == "waiting"
    for index in range(3):
        sink.offer(output(index))
    assert (sink.status()["state"], sink.status()["written"]) == ("open", 3)
    sink.close(1)
    sink.offer(output(3))
    assert (sink.status()["written"], sink.status()["dropped"]) == (3, 1)
    assert children() == []
