"""One engine for the tiles of many cameras: shared by staleness, and each fails by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.adaptive.tile_engine import TileInput
from streamdiffvsr.runtime.adaptive.upscaler import AdaptiveUpscaler
from streamdiffvsr.runtime.live.refiner import Flight, OpenedTiles, Refiner
from streamdiffvsr.runtime.live.tile_thread import LEAST_STALE, TileThread
from streamdiffvsr.tests.live.tiles import Marking, textured, wait_for

SIZE = (96, 128)


class Hungry:
    """A camera that always has tiles waiting, of a picture that is stale to some degree."""

    def __init__(self, shared: TileThread, engine: Any, stale: float = 1.0) -> None:
        self.refiner = Refiner(shared)
        self.refiner.stale = stale
        self.upscaler = AdaptiveUpscaler(engine, SIZE)
        canvas = self.upscaler.initial_state()
        from streamdiffvsr.runtime.adaptive.carry import carry

        canvas, _ = carry(canvas, textured(*SIZE), 0.0)
        self.jobs = self.upscaler.inputs(canvas, [(0, 0), (48, 80)])

    def feed(self) -> None:
        if self.refiner.backlog < 2:
            self.refiner.submit(self.upscaler, self.jobs, Flight(0.0, len(self.jobs)))


def shared_thread(engine: Any) -> TileThread:
    return TileThread(lambda at: OpenedTiles(engine, "stand-in tiles"))


def run(cameras: list[Hungry], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for camera in cameras:
            camera.feed()
        time.sleep(0.001)


@pytest.fixture
def engine() -> Iterator[Marking]:
    made = Marking(cost_s=0.004)
    yield made
    made.released.set()


def test_cameras_that_are_alike_get_as_many_tiles(engine: Marking) -> None:
    shared = shared_thread(engine)
    cameras = [Hungry(shared, engine) for _ in range(4)]
    run(cameras, 0.8)
    made = [camera.refiner.made for camera in cameras]
    assert min(made) > 10 and max(made) - min(made) <= 2, made
    assert cameras[0].refiner.turn_s == pytest.approx(4 * (shared.tile_s or 0))


def test_the_stalest_gets_most_and_none_starves(engine: Marking) -> None:
    shared = shared_thread(engine)
    stale, fresh = Hungry(shared, engine, 1.0), Hungry(shared, engine, 0.0)
    run([stale, fresh], 1.0)
    assert stale.refiner.made > 3 * fresh.refiner.made > 0
    assert fresh.refiner.turn_s == pytest.approx(
        (shared.tile_s or 0) * (1 + LEAST_STALE) / LEAST_STALE
    )


def test_a_camera_that_wants_none_leaves_its_share_to_others(
    engine: Marking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdiffvsr.runtime.live import tile_thread

    monkeypatch.setattr(tile_thread, "ACTIVE_S", 0.2)
    shared = shared_thread(engine)
    still, moving = Hungry(shared, engine), Hungry(shared, engine)
    run([still, moving], 0.1)
    assert (moving.refiner.turn_s or 0) > 1.5 * (shared.tile_s or 1)
    run([moving], 0.4)
    assert moving.refiner.turn_s == pytest.approx(shared.tile_s)


class Choosy(Marking):
    """Fails with a launch that has the tile of one camera, which is all zeros."""

    def refine(self, tiles: list[TileInput]) -> list[np.ndarray]:
        self.launches = [*getattr(self, "launches", []), len(tiles)]
        if any(not tile.lr.any() for tile in tiles):
            raise StreamDiffVSRError("the engine failed", "on purpose")
        return super().refine(tiles)


@pytest.mark.parametrize("batch", [1, 4])
def test_what_fails_for_one_camera_fails_for_no_other(batch: int) -> None:
    engine = Choosy(cost_s=0.002, batch=batch)
    shared = shared_thread(engine)
    good, bad = Hungry(shared, engine), Hungry(shared, engine)
    for job in bad.jobs:
        job.tile.lr[:] = 0
    run([good, bad], 0.3)
    assert "on purpose" in bad.refiner.error and not bad.refiner.made
    assert not good.refiner.error and good.refiner.made > 10
    before = good.refiner.made
    run([good], 0.1)
    assert good.refiner.made > before


def test_a_launch_takes_the_tiles_of_several_cameras() -> None:
    engine = Choosy(cost_s=0.01, batch=4)
    shared = shared_thread(engine)
    run([Hungry(shared, engine) for _ in range(2)], 0.3)
    assert 4 in engine.launches, "one camera alone has no more than three waiting"


def test_an_error_in_what_becomes_of_a_tile_is_of_its_camera(engine: Marking) -> None:
    shared = shared_thread(engine)
    good, bad = Hungry(shared, engine), Hungry(shared, engine)

    def fails(*_: object) -> Any:
        raise RuntimeError("its own code")

    bad.upscaler.patches = fails  # type: ignore[method-assign]
    run([good, bad], 0.2)
    assert "its own code" in bad.refiner.error and not good.refiner.error
    assert good.refiner.made > 5


def test_the_last_camera_to_leave_ends_the_thread_and_another_starts_it(engine: Marking) -> None:
    before = threading.active_count()
    shared = shared_thread(engine)
    first, second = Hungry(shared, engine), Hungry(shared, engine)
    run([first, second], 0.1)
    first.refiner.close()
    assert threading.active_count() == before + 1
    assert not second.refiner.stop(1.0)
    wait_for(lambda: threading.active_count() == before)
    third = Hungry(shared, engine)
    run([third], 0.1)
    assert third.refiner.made
    third.refiner.close()


def test_who_leaves_while_the_engine_is_opened_ends_that_for_no_other(engine: Marking) -> None:
    there = threading.Event()

    def slowly(at: Any) -> OpenedTiles:
        assert there.wait(10)
        return OpenedTiles(engine, "stand-in tiles")

    shared = TileThread(slowly)
    first, second = Refiner(shared), Refiner(shared)
    first.start()
    second.start()
    assert not first.stop(0.2)
    assert second.opening() is not None
    there.set()
    wait_for(lambda: second.opened)
    second.close()


def test_an_engine_that_could_not_be_opened_is_tried_again_by_the_next_camera(
    engine: Marking,
) -> None:
    tries: list[int] = []

    def opens_later(at: Any) -> OpenedTiles:
        tries.append(1)
        if len(tries) == 1:
            raise StreamDiffVSRError("no engine", "the disk is full")
        return OpenedTiles(engine, "stand-in tiles")

    shared = TileThread(opens_later)
    first = Refiner(shared)
    first.start()
    wait_for(lambda: first.error)
    assert "the disk is full" in first.error and first.opened is None
    second = Refiner(shared)
    second.start()
    wait_for(lambda: second.opened)
    assert not second.error and len(tries) == 2
    second.close()
