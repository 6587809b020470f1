"""Tests which addresses of SRT and WHIP are understood, and what is refused with which words."""

import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live import ffmpeg, relays
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.relays import parse_srt, parse_whip
from streamdiffvsr.runtime.live.sink_targets import SINKS, parse_target


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.setattr(relays, "ffmpeg_with", lambda part, failure, *, preset=False: "/bin/ffmpeg")


def test_an_address_of_srt():
    relay = parse_srt(
        "srt://[::1]:9000?mode=caller&latency=200000&passphrase=a%26b+c%27defgh&streamid=%23!::r=x",
        "failure",
        sends=True,
    )
    assert relay.url == "srt://[::1]:9000"
    assert relay.options == {"mode": "caller", "latency": "200000"}
    assert relay.secrets == {"passphrase": "a&b+c'defgh", "srt_streamid": "#!::r=x"}
    assert not relay.listens
    assert "a&b" not in repr(relay)


def test_who_listens_needs_no_host():
    relay = parse_srt("srt://:9000?mode=listener", "failure", sends=False)
    assert (relay.url, relay.listens) == ("srt://:9000", True)
    assert parse_source("srt://:9000?mode=listener").listens
    assert parse_target("srt://:9000?mode=listener").listens


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("srt://h", "it names no port; write srt://HOST:PORT"),
        ("srt://:9000", "it names no host; write srt://:PORT?mode=listener to listen"),
        ("srt://u:p@h:1", "SRT has no user names; write ?passphrase="),
        ("srt://h:1?passphrase=short", "passphrase has 10 to 79 characters"),
        ("srt://h:1?passphrase=long%0Aenough", "passphrase has 10 to 79 characters"),
        ("srt://h:1?latency=120", "would be 120 microseconds; write latency=120000 for 120 ms"),
        ("srt://h:1?latency=soon", "latency is a number"),
        ("srt://h:1?mode=server", "use caller, listener or rendezvous"),
        ("srt://h:1?latenzy=120000", "SRT has no option 'latenzy'; did you mean latency?"),
        ("srt://h:99999", "its host or port "),
    ],
)
@pytest.mark.parametrize("parse", [parse_source, parse_target])
def test_what_has_no_meaning_in_srt(query, says, parse):
    with pytest.raises(UsageError) as error:
        parse(query)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("address", "url", "authorization"),
    [
        ("whip://h:8889/cam/whip", "http://h:8889/cam/whip", ""),
        ("whips://h/whip?a=b", "https://h/whip?a=b", ""),
        ("whip+http://h", "http://h/", ""),
        ("WHIP+HTTPS://tok%2Fen@h/whip", "https://h/whip", "Bearer tok/en"),
        ("whips://me:se%3Acret@[::1]:1/whip", "https://[::1]:1/whip", "Basic bWU6c2U6Y3JldA=="),
    ],
)
def test_an_address_of_whip(address, url, authorization):
    relay = parse_whip(address, "failure")
    assert (relay.url, relay.authorization) == (url, authorization)


def test_the_table_says_what_whip_takes():
    target = parse_target("whips://hunter22@h/whip")
    assert (target.kind, target.format, target.shown) == ("whip", "nut", "whips://***@h/whip")
    assert SINKS["whip"].codecs == ("h264", "opus")
    assert "hunter22" not in repr(target)
    assert target.clean("no hunter22 here") == "no *** here"


@pytest.mark.parametrize("parse", [parse_source, parse_target])
def test_secrets_of_srt_are_not_shown(parse):
    parsed = parse(
        "srt://h:1?passphrase=hunter22hunter&streamid=publish:cam:me:geheim&latency=90000"
    )
    assert parsed.shown == "srt://h:1?passphrase=***&streamid=***&latency=90000"
    assert "hunter22" not in repr(parsed) and "geheim" not in repr(parsed)


def test_without_an_ffmpeg_that_has_it_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ffmpeg, "_programs", lambda: iter(["/bin/false", "/no/such/program"]))
    with pytest.raises(
        StreamDiffVSRError, match=r"without WHIP here; install streamdiffvsr\[whip\]"
    ):
        ffmpeg.ffmpeg_with(ffmpeg.WHIP, "could not send")


def test_an_ffmpeg_that_would_show_a_passphrase_is_not_used(monkeypatch):
    monkeypatch.setattr(ffmpeg, "_programs", lambda: iter(["/bin/shows", "/bin/hides"]))
    monkeypatch.setattr(ffmpeg, "_has", lambda *_: True)
    monkeypatch.setattr(ffmpeg, "_heeds_presets", lambda program: program == "/bin/hides")
    assert ffmpeg.ffmpeg_with(ffmpeg.SRT, "could not send") == "/bin/shows"
    assert ffmpeg.ffmpeg_with(ffmpeg.SRT, "could not send", preset=True) == "/bin/hides"
    monkeypatch.setattr(ffmpeg, "_heeds_presets", lambda program: False)
    with pytest.raises(StreamDiffVSRError, match="which all users can read; put"):
        ffmpeg.ffmpeg_with(ffmpeg.SRT, "could not send", preset=True)


def test_only_ffmpeg_that_is_asked_knows_what_it_has():
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="of the whip extra")
    program = imageio_ffmpeg.get_ffmpeg_exe()
    assert ffmpeg._has(program, "-protocols", "srt") and ffmpeg._has(program, "-muxers", "whip")
    assert not ffmpeg._has(program, "-muxers", "no_such_muxer")
