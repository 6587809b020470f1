"""Tests how viewers set the regions of interest, and how they get the freshness of a frame."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.preview import server
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.clients import joined, packets
from streamdiffvsr.tests.live.preview.rig import SIZE, Told, get, output, playing, preview

TOKEN = "open sesame"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}


class Session:
    """Takes regions as a session does, which knows its frame's size."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, ...]] = []

    def prefer(self, regions: Sequence[tuple[int, int, int, int]]) -> None:
        for x, y, width, height in regions:
            if x + width > SIZE[1] or y + height > SIZE[0]:
                raise UsageError("the region is outside the frame", "it has 96x54", "draw it again")
        self.regions = list(regions)


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def locked(session: Session) -> Iterator[Preview]:
    with preview(token=TOKEN, prefer=session.prefer) as (opened, _):
        yield opened


def post(opened: Preview, order: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """The status and the JSON of the answer; headers are added to the token and the type."""
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    sent = {**BEARER, **JSON, **(headers or {})}
    status, answer, _ = get(opened.port, "/regions", sent, "POST", body)
    return status, json.loads(answer)


def test_regions_are_replaced_and_cleared(locked: Preview, session: Session) -> None:
    wanted = [[0, 0, 96, 54], [10, 5, 40, 30]]
    assert post(locked, {"regions": wanted}) == (200, {"regions": wanted})
    assert session.regions == [tuple(region) for region in wanted]
    assert post(locked, {"regions": wanted[1:]})[0] == 200
    assert session.regions == [(10, 5, 40, 30)]
    assert post(locked, {"regions": []}) == (200, {"regions": []})
    assert session.regions == []
    assert post(locked, {"regions": [[1, 2, 3, 4]] * 16})[0] == 200


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 4000, "not JSON"),
        ([], "not an object"),
        ({}, "not an object"),
        ({"regions": [], "more": 1}, "not an object"),
        ({"regions": None}, "not a list"),
        ({"regions": {"0": [1, 2, 3, 4]}}, "not a list"),
        ({"regions": [[1, 2, 3]]}, "region 1 is not four integers"),
        ({"regions": [[1, 2, 3, 4], [1, 2, 3, "4"]]}, "region 2 is not four integers"),
        ({"regions": [[1, 2, 3, 4.0]]}, "not four integers"),
        ({"regions": [[1, 2, 3, True]]}, "not four integers"),
        (b'{"regions": [[1, 2, 3, NaN]]}', "not four integers"),
        ({"regions": [[1, 2, 3, [4]]]}, "not four integers"),
        ({"regions": [[-1, 2, 3, 4]]}, "start at 0"),
        ({"regions": [[1, 2, 0, 4]]}, "width and height at 1"),
        ({"regions": [[1, 2, 3, 10**30]]}, "region 1 is not one"),
        ({"regions": [[1, 2, 3, 4]] * 17}, "there are 17, and at most 16"),
        ({"regions": [[90, 5, 7, 5]]}, "the region is outside the frame: it has 96x54; draw it"),
    ],
)
def test_bad_regions_are_one_line(locked: Preview, session: Session, order: Any, why: str) -> None:
    session.regions = [(1, 1, 1, 1)]
    status, answer = post(locked, order)
    assert status == 400
    assert answer.keys() == {"error"}
    assert why in answer["error"]
    assert "\n" not in answer["error"]
    assert session.regions == [(1, 1, 1, 1)]


def test_a_large_body_is_refused(locked: Preview, session: Session) -> None:
    status, answer = post(locked, b" " * 5000 + b'{"regions": []}')
    assert status == 413
    assert "at most 4096 bytes" in answer["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "a/b"])
def test_what_a_form_of_a_page_can_send_is_refused(
    locked: Preview, session: Session, kind: str
) -> None:
    session.regions = [(1, 1, 1, 1)]
    assert post(locked, {"regions": []}, {"Content-Type": kind})[0] == 415
    assert session.regions == [(1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ],
)
def test_strangers_set_nothing(
    locked: Preview, session: Session, headers: dict[str, str], status: int
) -> None:
    session.regions = [(1, 1, 1, 1)]
    sent = {**BEARER, **JSON, **headers}
    assert get(locked.port, "/regions", sent, "POST", b'{"regions": []}')[0] == status
    assert session.regions == [(1, 1, 1, 1)]


def test_other_methods_are_refused(locked: Preview) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert get(locked.port, "/regions", BEARER, method)[0] == 405


def test_a_session_that_takes_none_has_no_route(shown: tuple[Preview, Told]) -> None:
    assert get(shown[0].port, "/regions", JSON, "POST", b'{"regions": []}')[0] == 404


@pytest.mark.parametrize("can", [True, False])
def test_every_viewer_hears_of_new_regions_at_once(
    session: Session, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STATUS_S", 60.0)

    async def hear(opened: Preview, told: Told) -> list[dict]:
        heard = []
        async with joined(opened, "") as connection:
            heard.append(await connection.receive_json())
            if can:
                told.more = {"adaptive": {"regions": [[1, 2, 3, 4]]}}
                await asyncio.to_thread(post, opened, {"regions": [[1, 2, 3, 4]]})
                heard.append(await connection.receive_json())
        return heard

    with preview(prefer=session.prefer if can else None) as (opened, told):
        first, *later = asyncio.run(asyncio.wait_for(hear(opened, told), 10))
    assert first["can_prefer"] is can
    assert [message["status"]["adaptive"]["regions"] for message in later] == (
        [[[1, 2, 3, 4]]] if can else []
    )


CELLS = np.arange(27 * 48, dtype=np.uint32).reshape(27, 48).astype(np.uint8)


def with_cells(index: int) -> OutputFrame:
    return replace(output(index), freshness=CELLS)


@pytest.mark.parametrize("watch", ["h264", "jpeg"])
def test_the_freshness_comes_only_while_a_viewer_wants_it(
    shown: tuple[Preview, Told], watch: str
) -> None:
    async def view() -> list[Any]:
        seen = []
        async with joined(shown[0], watch) as connection:
            stream = packets(connection)
            seen.append((await anext(stream))[0]["freshness"])
            for wanted in (True, False):
                await connection.send_json({"freshness": wanted})
                async for header, _ in stream:
                    if (header["freshness"] is not None) is wanted:
                        seen.append(header["freshness"])
                        break
        return seen

    with playing(*shown, make=with_cells):
        before, cells, after = asyncio.run(asyncio.wait_for(view(), 30))
    assert before is None
    assert after is None
    assert (cells["rows"], cells["columns"]) == CELLS.shape
    assert base64.b64decode(cells["cells"]) == CELLS.tobytes()
    assert len(json.dumps(cells)) < 2000


def test_a_still_picture_shows_its_freshness_when_it_is_asked_for(
    shown: tuple[Preview, Told],
) -> None:
    async def view() -> dict:
        async with joined(shown[0]) as connection:
            stream = packets(connection)
            await anext(stream)
            await connection.send_json({"freshness": True})
            async for header, _ in stream:
                if header["freshness"]:
                    return dict(header)
            raise AssertionError

    shown[0].offer(with_cells(3))
    assert asyncio.run(asyncio.wait_for(view(), 20))["again"]


def test_a_frame_made_whole_has_no_freshness(shown: tuple[Preview, Told]) -> None:
    async def view() -> dict:
        async with joined(shown[0]) as connection:
            await connection.send_json({"freshness": True})
            async for header, _ in packets(connection):
                return dict(header)
            raise AssertionError

    with playing(*shown):
        assert asyncio.run(asyncio.wait_for(view(), 20))["freshness"] is None
