"""The page of all cameras, the API and the metrics of a service, as a client sees them."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live.preview import guesses
from streamdiffvsr.runtime.live.preview.api import Api
from streamdiffvsr.runtime.live.preview.site import Site
from streamdiffvsr.runtime.live.service import Service
from streamdiffvsr.tests.live.cameras import Openings, service_of, settings
from streamdiffvsr.tests.live.preview.rig import get, wait_until
from streamdiffvsr.tests.live.preview.tab import BOTH_SIZES, PHONE, Tab, save

TOKEN = "only for me"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {**BEARER, "Content-Type": "application/json"}
NAMES = ("yard", "door")


@dataclass
class Served:
    """A service that is served, and what it was asked to read again."""

    site: Site
    service: Service
    openings: Openings
    reloads: int = 0
    fault: str = ""

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Returns the status and the body of an answer, which is JSON or text."""
        data = None if body is None else json.dumps(body).encode()
        code, answer, sent = get(self.site.port, path, headers or JSON, method, data)
        is_json = "json" in (sent.get("Content-Type") or "")
        return code, json.loads(answer) if is_json else answer.decode(errors="replace")

    def cameras(self) -> dict[str, dict[str, Any]]:
        code, found = self.ask("GET", "/api/cameras")
        assert code == 200
        return {camera["name"]: camera for camera in found["cameras"]}


@pytest.fixture
def served() -> Iterator[Served]:
    openings = Openings(fps=15)
    held: list[Served] = []
    service = service_of(openings, attach=lambda view: held[0].site.attach(view))

    def complete(given: Any) -> Any:
        return replace(given, plan=replace(given.plan, mode="exact"))

    def reload() -> str:
        held[0].reloads += 1
        if held[0].fault:
            raise UsageError(held[0].fault)
        return "nothing changed"

    api = Api(service, complete=complete, reload=reload)
    site = Site(
        *("127.0.0.1", 0),
        token=TOKEN,
        names=(),
        service=service,
        api=api,
        faulty=lambda: bool(held[0].fault),
    )
    held.append(Served(site, service, openings))
    for name in NAMES:
        service.add(name, settings(name), "file")
    for name in NAMES:
        wait_until(lambda name=name: service.find(name).view.newest)
    yield held[0]
    service.close()
    site.close(2.0)


READ = (
    *("/", "/grid.js", "/page.css", "/api/cameras", "/api/cameras/yard", "/openapi.json"),
    *("/metrics", "/healthz", "/status.json", "/cameras/yard/", "/cameras/yard/page.js"),
    *("/cameras/yard/status.json", "/cameras/yard/snapshot.png", "/cameras/yard/thumbnail.jpg"),
    "/api/cameras/yard/snapshot.png",
)
CHANGING = (
    ("POST", "/api/cameras"),
    ("DELETE", "/api/cameras/yard"),
    ("POST", "/api/cameras/yard/pause"),
    ("POST", "/api/cameras/yard/resume"),
    ("POST", "/api/cameras/yard/restart"),
    ("POST", "/api/reload"),
    ("POST", "/cameras/yard/regions"),
)


def test_everything_that_can_be_read_is_there(served: Served) -> None:
    for path in READ:
        code, _ = served.ask("GET", path, headers=BEARER)
        assert code == 200, path
    for path in ("/cameras/none/", "/api/cameras/none", "/cameras/yard/none", "/none"):
        assert served.ask("GET", path)[0] == 404, path
    assert served.ask("PUT", "/cameras/yard/snapshot.png", {})[0] == 405
    assert served.ask("HEAD", "/cameras/yard/snapshot.png") == (200, "")
    assert served.ask("HEAD", "/cameras/yard/stream.mjpg")[0] == 405
    code, _, headers = get(served.site.port, "/cameras/yard", BEARER)
    assert (code, headers["Location"]) == (308, "/cameras/yard/")


def test_every_route_of_a_service_wants_the_token(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "NETWORK_S", 0.01)
    wrong = {**JSON, "Authorization": "Bearer other"}
    for method, path in (*(("GET", path) for path in READ), *CHANGING):
        assert served.ask(method, path, {}, headers=wrong)[0] == 401, path
    assert set(served.cameras()) == set(NAMES)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_change_nothing(served: Served, headers: dict[str, str]) -> None:
    for method, path in CHANGING:
        code, _ = served.ask(method, path, {}, headers={**JSON, **headers})
        assert code == 403, path
    assert set(served.cameras()) == set(NAMES) and not served.reloads


def test_what_changes_something_has_to_come_as_json(served: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        for method, path in CHANGING:
            headers = {**BEARER, "Content-Type": kind} if kind else BEARER
            code, answer = served.ask(method, path, {}, headers=headers)
            assert code == 415 and "application/json" in answer["error"], path
    assert served.ask("POST", "/api/cameras", {"name": "x" * 5000})[0] == 413
    for body in (b"{", b"[1]", b"[" * 4000, b"\xff"):
        code, answer, _ = get(served.site.port, "/api/cameras", JSON, "POST", body)
        assert code == 400 and json.loads(answer)["error"]


def test_a_camera_is_added_and_removed(served: Served) -> None:
    order = {"name": "new", "source": "testsrc", "mode": "adaptive"}
    code, added = served.ask("POST", "/api/cameras", order)
    assert (code, added["name"], added["origin"]) == (201, "new", "api")
    wait_until(lambda: served.cameras()["new"]["state"] == "playing")
    assert list(served.cameras()) == [*NAMES, "new"]
    code, answer = served.ask("POST", "/api/cameras", order)
    assert code == 409 and "already" in answer["error"]
    assert served.ask("DELETE", "/api/cameras/new", {})[0] == 204
    assert served.ask("DELETE", "/api/cameras/new", {})[0] == 404
    assert list(wait_until(lambda: "new" not in served.cameras() and served.cameras())) == [*NAMES]


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ({}, 'needs a "name"'),
        ({"name": "a"}, "key source: it is missing"),
        ({"name": "a/b", "source": "testsrc"}, "a name has up to 63 letters"),
        ({"name": "a", "source": "testsrc", "colour": 1}, 'key "colour": it is unknown'),
        ({"name": "a", "source": "/etc/passwd"}, 'allow = ["files"]'),
        ({"name": "a", "source": "rtsp://127.0.0.1/x"}, 'allow = ["local"]'),
        ({"name": "a", "source": "testsrc", "to": "a.mkv"}, 'allow = ["files"]'),
        ({"name": "a", "source": "rtsp://192.0.2.7/\0"}, "a character that no name or address"),
        ({"name": "a", "source": "rtsp://192.0.2.7/\ud800"}, "a character that no name or address"),
    ],
)
def test_a_camera_that_is_wrong_or_not_allowed_is_not_added(
    served: Served, order: dict[str, Any], why: str
) -> None:
    code, answer = served.ask("POST", "/api/cameras", order)
    assert code == 400 and why in answer["error"]
    assert set(served.cameras()) == set(NAMES)


def test_a_camera_is_paused_resumed_and_restarted(served: Served) -> None:
    assert served.ask("POST", "/api/cameras/yard/pause", {})[0] == 202
    wait_until(lambda: served.cameras()["yard"]["state"] == "paused")
    code, text = served.ask("GET", "/cameras/yard/healthz")
    assert code == 503 and text.startswith("paused")
    assert served.ask("GET", "/healthz") == (200, "1 playing\n")
    assert served.ask("GET", "/cameras/yard/snapshot.png", headers=BEARER)[0] == 200
    assert served.ask("POST", "/api/cameras/yard/resume", {})[0] == 202
    wait_until(lambda: served.cameras()["yard"]["state"] == "playing")
    assert served.ask("POST", "/api/cameras/yard/restart", {})[0] == 202
    wait_until(lambda: served.openings.opened.count("yard") == 3)
    assert served.openings.opened.count("door") == 1
    assert served.ask("POST", "/api/cameras/none/pause", {})[0] == 404


def test_the_file_is_read_again_on_demand(served: Served) -> None:
    assert served.ask("POST", "/api/reload", {}) == (200, {"changed": "nothing changed"})
    served.fault = 'cameras.toml: camera "yard", key mode: 3 is not auto'
    code, answer = served.ask("POST", "/api/reload", {})
    assert code == 400 and answer["error"] == served.fault
    wait_until(lambda: served.ask("GET", "/api/cameras")[1]["file_faulty"])


def test_health_names_the_cameras_that_do_not_play(served: Served) -> None:
    assert served.ask("GET", "/healthz") == (200, "2 playing\n")
    served.openings.fails["bad"] = [UsageError("no such camera") for _ in range(99)]
    served.service.add("bad", settings("bad"))
    code, text = wait_until(
        lambda: (
            (found := served.ask("GET", "/healthz"))[0] == 503 and "failed" in found[1] and found
        )
    )
    assert code == 503 and text.startswith("bad: failed: no such camera")


def test_a_thumbnail_is_a_small_picture(served: Served) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    _, body, headers = get(served.site.port, "/cameras/yard/thumbnail.jpg", BEARER)
    assert headers["Content-Type"] == "image/jpeg"
    found = np.asarray(image.open(io.BytesIO(body)))
    newest = served.service.find("yard").view.newest
    assert newest is not None and found.shape == newest.image.shape == (192, 256, 3)
    assert np.abs(found.astype(int) - newest.image).mean() < 6


def test_every_metric_of_a_camera_has_its_name(served: Served) -> None:
    wait_until(lambda: all(one["frames"] for one in served.cameras().values()))
    _, text = served.ask("GET", "/metrics", headers=BEARER)
    of_service = {"cameras", "file_faulty", "memory_megabytes"}
    seen = set()
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("streamdiffvsr_")
        labels = [sample.labels for sample in family.samples]
        if name in of_service:
            assert all("camera" not in one for one in labels), name
        else:
            assert {one["camera"] for one in labels} <= set(NAMES), name
        seen.add(name)
    assert {"up", "latency_seconds", "source_frames", "camera_restarts", *of_service} <= seen
    assert len(re.findall(r"^streamdiffvsr_memory_megabytes ", text, re.MULTILINE)) == 1
    assert 'streamdiffvsr_cameras{state="running"} 2.0' in text


def test_a_paused_camera_is_not_reported_as_down(served: Served) -> None:
    served.service.find("yard").pause()
    wait_until(lambda: served.cameras()["yard"]["state"] == "paused")
    _, text = served.ask("GET", "/metrics", headers=BEARER)
    assert 'up{camera="door"} 1.0' in text and 'up{camera="yard"}' not in text


def test_two_cameras_send_their_own_pictures_to_their_own_pages(served: Served) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    origin = f"http://127.0.0.1:{served.site.port}"

    async def first(name: str) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession(headers=BEARER) as session,
            session.ws_connect(f"{origin}/cameras/{name}/ws", origin=origin) as connection,
        ):
            await connection.send_json({"watch": "jpeg"})
            found: dict[str, Any] = {}
            async for message in connection:
                if message.type is aiohttp.WSMsgType.TEXT:
                    found |= json.loads(message.data)
                else:
                    found["bytes"] = len(message.data)
                if {"status", "bytes"} <= found.keys():
                    return found
        return found

    for name in NAMES:
        found = asyncio.run(asyncio.wait_for(first(name), 30))
        assert found["status"]["camera"]["name"] == name and found["bytes"] > 1000


# ---- the description ----


def test_the_description_is_valid_and_complete(served: Served) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="of the dev extra")
    code, described = served.ask("GET", "/openapi.json")
    assert code == 200 and described["openapi"] == "3.1.0"
    validator.validate(described)
    own = {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    }
    routes = {
        (route.method, route.resource.canonical)
        for route in served.site._server._application.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "*")
    }
    api = {route for route in routes if route[1].startswith("/api/")}
    assert api <= own <= routes


def test_answers_are_as_the_description_says(served: Served) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="of the bench extra")
    _, described = served.ask("GET", "/openapi.json")
    schema = {"$ref": "#/components/schemas/Cameras", **described}
    served.service.find("door").pause()
    wait_until(lambda: served.cameras()["door"]["state"] == "paused")
    jsonschema.validate(served.ask("GET", "/api/cameras")[1], schema)
    one = {"$ref": "#/components/schemas/Camera", **described}
    for camera in served.cameras().values():
        jsonschema.validate(camera, one)
        assert set(camera) == set(described["components"]["schemas"]["Camera"]["properties"])
    from streamdiffvsr.runtime.live.camera_keys import CAMERA

    keys = set(described["components"]["schemas"]["NewCamera"]["properties"]) - {"name"}
    assert keys == set(CAMERA)


# ---- the page ----


def card(tab: Tab, name: str) -> Any:
    return tab.page.locator(".camera").filter(
        has=tab.page.get_by_role("link", name=name, exact=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("tab", BOTH_SIZES, indirect=True)
def test_the_page_shows_and_changes_all_cameras(tab: Tab, served: Served) -> None:
    tab.page.goto(f"{served.site.url}?token={TOKEN}")
    tab.wait_for("document.querySelectorAll('.camera img:not([hidden])').length === 2")
    assert "token" not in tab.page.url and tab.text("state") == "2 of 2 live"
    sizes = tab.page.evaluate("[...document.querySelectorAll('img')].map(i => i.naturalWidth)")
    assert sizes == [256, 256]
    before = tab.page.evaluate("document.querySelector('img').src")
    tab.wait_for(f"document.querySelector('img').src !== {before!r}")
    assert "/ s" in card(tab, "yard").locator(".fps").inner_text()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    save(tab, f"cameras-{tab.page.viewport_size['width']}")

    card(tab, "yard").get_by_role("button", name="Pause").click()
    card(tab, "yard").get_by_role("button", name="Resume").wait_for()
    assert tab.text("state") == "1 of 2 live"
    assert "Paused" in card(tab, "yard").locator(".veil").inner_text()
    card(tab, "yard").get_by_role("button", name="Resume").click()
    tab.wait_for("document.getElementById('state').textContent === '2 of 2 live'")

    tab.page.locator("#add").click()
    tab.page.get_by_label("Name").fill("shed")
    tab.page.get_by_label("Source").fill("/etc/passwd")
    tab.page.get_by_role("button", name="Add", exact=True).click()
    tab.wait_for("document.getElementById('adding-said').textContent.includes('allow')")
    tab.page.get_by_label("Source").fill("testsrc")
    tab.page.get_by_role("button", name="Add", exact=True).click()
    card(tab, "shed").wait_for()
    tab.wait_for("!document.getElementById('adding').open")
    card(tab, "shed").get_by_role("button", name="Remove").click()
    tab.page.get_by_role("button", name="Remove", exact=True).last.click()
    tab.wait_for("document.querySelectorAll('.camera').length === 2")
    assert set(served.service.cameras) == set(NAMES)
    # What the browser itself reports of the answer that refused a camera.
    assert all("400" in line for line in tab.complaints), tab.complaints


@pytest.mark.slow
@pytest.mark.parametrize("tab", [PHONE], indirect=True, ids=["phone"])
def test_a_card_leads_to_the_cameras_own_page_and_back(tab: Tab, served: Served) -> None:
    tab.page.goto(f"{served.site.url}?token={TOKEN}")
    card(tab, "door").get_by_role("link", name="Open door").click()
    tab.shows()
    tab.wait_for("document.getElementById('name').textContent === 'door'")
    assert tab.page.title().endswith("door")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    served.service.find("door").pause()
    tab.wait_for("document.getElementById('state').textContent === 'Paused'")
    tab.page.locator("#all").click()
    tab.wait_for("document.querySelectorAll('.camera').length === 2")
    assert Path(tab.page.url).name == f"127.0.0.1:{served.site.port}"


@pytest.mark.slow
def test_the_page_says_that_the_server_is_gone_and_comes_back(tab: Tab, served: Served) -> None:
    tab.page.goto(f"{served.site.url}?token={TOKEN}")
    tab.wait_for("document.querySelectorAll('.camera').length === 2")
    tab.page.route("**/api/cameras", lambda route: route.abort())
    tab.wait_for("document.getElementById('state').textContent === 'Server lost'")
    tab.page.unroute("**/api/cameras")
    tab.wait_for("document.getElementById('state').textContent === '2 of 2 live'")
    tab.page.context.clear_cookies()
    tab.wait_for("document.getElementById('state').textContent === 'Not allowed'")
