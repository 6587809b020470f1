"""Tests who may see the preview: every route requires the token, its Host and its Origin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamdiffvsr.runtime.live.preview import guesses
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.rig import Told, get, output, preview

TOKEN = "correct horse/battery"
QUOTED = "correct%20horse%2Fbattery"
ROUTES = [
    "/",
    "/page.js",
    "/picture.js",
    "/numbers.js",
    "/page.css",
    "/ws",
    "/stream.mjpg",
    "/stream.mjpg?which=lr",
    "/snapshot.png",
    "/metrics",
    "/healthz",
    "/status.json",
    "/no-such-page",
    "/freshness.js",
    "/regions.js",
]
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[Preview, Told]]:
    with preview(token=TOKEN) as pair:
        pair[0].offer(output(0, (8, 8)))
        yield pair


@pytest.fixture(scope="module")
def public() -> Iterator[tuple[Preview, Told]]:
    with preview(host="0.0.0.0", token=TOKEN, names=["video.example"]) as pair:
        yield pair


def headers_for(opened: Preview, path: str) -> dict[str, str]:
    origin = f"http://127.0.0.1:{opened.port}"
    return {**WEBSOCKET, "Origin": origin} if path == "/ws" else {}


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_wants_the_token(locked: tuple[Preview, Told], path: str) -> None:
    status, body, _ = get(locked[0].port, path, headers_for(locked[0], path))
    assert status == 401
    assert TOKEN.encode() not in body


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "", "a@localhost"])
def test_every_route_refuses_a_host_of_others(
    locked: tuple[Preview, Told], path: str, host: str
) -> None:
    headers = {**headers_for(locked[0], path), "Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert get(locked[0].port, path, headers)[0] == 403


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_every_route_refuses_an_origin_of_others(
    locked: tuple[Preview, Told], path: str, origin: str
) -> None:
    headers = {**headers_for(locked[0], path), "Authorization": f"Bearer {TOKEN}"}
    assert get(locked[0].port, path, {**headers, "Origin": origin})[0] == 403


def test_a_websocket_needs_an_origin(locked: tuple[Preview, Told]) -> None:
    headers = {**WEBSOCKET, "Authorization": f"Bearer {TOKEN}"}
    assert get(locked[0].port, "/ws", headers)[0] == 403


def test_a_picture_on_a_page_of_others_is_refused(locked: tuple[Preview, Told]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": "cross-site"}
    port = locked[0].port
    assert get(port, "/snapshot.png", {**headers, "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert get(port, "/", {**headers, "Sec-Fetch-Mode": "navigate"})[0] == 200  # a link is fine


def test_the_token_opens_by_header_query_and_then_by_cookie(
    locked: tuple[Preview, Told],
) -> None:
    opened, _ = locked
    assert opened.url.endswith(f"/?token={QUOTED}")
    assert get(opened.port, "/metrics", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    status, body, headers = get(opened.port, f"/?token={QUOTED}")
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    for secret in (TOKEN, QUOTED):
        assert secret not in cookie
        assert secret.encode() not in body
        assert secret not in str(opened.status())
    given = {"Cookie": cookie.partition(";")[0]}
    for path in ROUTES[:5] + ROUTES[8:12]:
        assert get(opened.port, path, given)[0] == 200, path


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"Cookie": "a=b"}]
)
def test_a_wrong_token_is_refused(
    locked: tuple[Preview, Told], headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "NETWORK_S", 0.01)
    assert get(locked[0].port, "/status.json", headers)[0] == 401
    assert get(locked[0].port, f"/status.json?token={QUOTED}x")[0] == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:9000"])
def test_loopback_names_are_its_own(locked: tuple[Preview, Told], host: str) -> None:
    headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert get(locked[0].port, "/healthz", headers)[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.0.2.7:80", 200), ("[2001:db8::1]", 200), ("video.example", 200), ("evil.example", 403)],
)
def test_off_loopback_it_answers_to_addresses_and_given_names(
    public: tuple[Preview, Told], locked: tuple[Preview, Told], host: str, status: int
) -> None:
    headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert get(public[0].port, "/healthz", headers)[0] == status
    assert get(locked[0].port, "/healthz", headers)[0] == 403  # on loopback it is no name of it


def test_only_reading_methods_are_there(locked: tuple[Preview, Told]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("POST", "PUT", "DELETE"):
        assert get(locked[0].port, "/snapshot.png", headers, method)[0] == 405


def test_answers_are_private(locked: tuple[Preview, Told]) -> None:
    for path in ("/", "/no-such-page"):
        _, _, headers = get(locked[0].port, path, {"Authorization": f"Bearer {TOKEN}"})
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


def test_the_address_to_open_is_one_that_can_be_opened(public: tuple[Preview, Told]) -> None:
    assert "0.0.0.0" not in public[0].url
    assert f":{public[0].port}/?token=" in public[0].url
    assert "token" not in public[0].name
