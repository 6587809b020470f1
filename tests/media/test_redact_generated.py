"""No canary survives in generated addresses, wherever a camera's maker puts a password."""

import random
import string
from urllib.parse import quote

import pytest

from streamdiffvsr.runtime.media.redact import hide, redact, redact_address, secrets_in

CANARY = "Zx9canary"
RAW = string.punctuation.replace("'", "").replace('"', "")
HOSTS = ["10.0.0.1", "camera", "cam.example", "[2001:db8::1]", "localhost", "192.168.1.64:8554"]
TAILS = ["", "/", "/live", "/cam/realmonitor?channel=1&subtype=0", "/Streaming/Channels/101"]
KEYS = ["pw", "p", "loginpas", "pwd", "password", "Passwd", "passphrase", "token", "access_token"]
KEYS += ["auth", "sig", "X-Amz-Signature", "key", "apikey", "k", "u", "usr", "user", "session"]
KEYS += ["q", "zz", "whatever", "%70assword", "pin", "code"]  # known to no list


def password(rng: random.Random, signs: str) -> str:
    """The canary between up to four signs on each side."""
    before, after = (
        "".join(rng.choice(signs + "ab1") for _ in range(rng.randint(0, 4))) for _ in range(2)
    )
    return before + CANARY + after


def in_userinfo(rng: random.Random) -> str:
    scheme = rng.choice(["rtsp", "rtsps", "http", "https", "RTSP", "rtmp", "udp", "tcp"])
    user = rng.choice(["admin", "a.b", "me", ""])
    return f"{scheme}://{user}:{password(rng, RAW)}@{rng.choice(HOSTS)}{rng.choice(TAILS)}"


def in_userinfo_escaped(rng: random.Random) -> str:
    secret = quote(password(rng, RAW), safe="")
    return f"rtsp://admin:{secret}@{rng.choice(HOSTS)}{rng.choice(TAILS)}"


def in_path(rng: random.Random) -> str:
    secret = password(rng, ".-+!$*~@_")
    join = rng.choice("_&;,/")
    pairs = [f"user=admin{join}password={secret}", "channel=1", "stream=0.sdp"]
    return f"rtsp://{rng.choice(HOSTS)}/{join.join(pairs)}"


def after_a_name(rng: random.Random) -> str:
    name = rng.choice(["token", "key", "password", "auth", "Secret"])
    return f"http://{rng.choice(HOSTS)}/hls/{name}/{password(rng, '-_.~')}/index.m3u8"


def as_a_pair(rng: random.Random) -> str:
    return f"rtsp://{rng.choice(HOSTS)}/admin:{password(rng, '-_.~!')}/live"


def in_query(rng: random.Random) -> str:
    items = [f"{rng.choice(KEYS)}={password(rng, RAW)}", "channel=1", "n=1"]
    rng.shuffle(items)
    return f"http://{rng.choice(HOSTS)}/video?{'&'.join(items)}"


def alone_in_query(rng: random.Random) -> str:
    return f"http://{rng.choice(HOSTS)}/video?{password(rng, '-_.~')}"


def in_fragment(rng: random.Random) -> str:
    key = rng.choice(["access_token=", "", "state=", "pw="])
    return f"https://{rng.choice(HOSTS)}/x?n=1#{key}{password(rng, '-_.~!')}"


def as_stream_key(rng: random.Random) -> str:
    return f"rtmp://{rng.choice(HOSTS)}/app/{password(rng, '-_.~')}"


def inside_another(rng: random.Random) -> str:
    inner = f"rtsp://admin:{password(rng, RAW.replace('#', '').replace('?', ''))}@camera/live"
    return rng.choice(
        [
            f"http://proxy/{inner}",
            f"http://proxy/x?url={inner}",
            f"http://p/{quote(inner, safe='')}",
        ]
    )


PLACES = [
    *(in_userinfo, in_userinfo_escaped, in_path, after_a_name, as_a_pair, in_query),
    *(alone_in_query, in_fragment, as_stream_key, inside_another),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_place_of_an_address_shows_a_password(place):
    rng = random.Random(place.__name__)
    for _ in range(1000):
        address = place(rng)
        shown = redact_address(address)
        assert CANARY not in shown, address
        assert redact_address(shown) == shown, address
        for text in (address, f"could not read '{address}': refused", f"<{address}>, again"):
            assert CANARY not in redact(text), text
            assert redact(redact(text)) == redact(text), text
        assert any(CANARY in secret for secret in secrets_in(address)), address


def test_a_piece_of_an_address_in_a_message_is_hidden_by_what_the_address_holds():
    """libav takes a raw sign in a password for the end of the host, and names what it sees."""
    rng = random.Random(1)
    for _ in range(1000):
        address = in_userinfo(rng)
        pieces = [piece for piece in address.replace("@", "/").split("/") if CANARY in piece]
        for piece in pieces:
            message = f"Failed to resolve hostname {piece}: unknown"
            assert CANARY not in hide(message, secrets_in(address)), (address, piece)


@pytest.mark.parametrize(
    "address",
    [
        f"rtsp://admin:a {CANARY}@10.0.0.1/x",
        f"admin:{CANARY}@10.0.0.1/x",
        f"rtsp:/admin:{CANARY}@10.0.0.1/x",
        f"rtsp:admin:{CANARY}@10.0.0.1/x",
        f" rtsp://admin:{CANARY}@10.0.0.1/x",
        f"rtsp://admin:12/{CANARY}@10.0.0.1/x",
        f"rtsp://{CANARY}@10.0.0.1/x",
    ],
)
def test_a_mistyped_address_shows_no_password(address):
    assert CANARY not in redact_address(address)


def test_an_address_without_secrets_stays_readable():
    rng = random.Random(2)
    for _ in range(1000):
        scheme = rng.choice(["rtsp", "http", "https", "tcp"])
        address = f"{scheme}://{rng.choice(HOSTS)}{rng.choice(TAILS)}"
        assert redact_address(address) == address
        assert redact(f"'{address}': refused") == f"'{address}': refused"
        assert secrets_in(address) == ()


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://10.0.0.2:554/h264Preview_01_main",
        "rtsp://10.0.0.2/axis-media/media.amp?videocodec=h264&resolution=640x480",
        "rtsp://h/onvif/profile1/media.smp",
        "http://h:8080/hls/front-door/2026-11-30/index.m3u8",
        "http://h/mjpg/video.mjpg?camera=2&fps=15",
        "udp://@239.0.0.1:1234?pkt_size=1316&overrun_nonfatal=1&localaddr=10.0.0.1",
        "tcp://0.0.0.0:9000?listen=1",
        "https://h/manual.html#an-engine-that-hangs",
        "webcam:0",
        r"C:\films\me@home.mp4",
        "/films/12:30@home.mkv",
    ],
)
def test_addresses_of_cameras_are_left_alone(address):
    assert redact_address(address) == address
    assert redact(address) == address
