"""The cameras of a service: each keeps going by itself, and fails, pauses and ends alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.camera import ENDED, FAILED, PAUSED, RUNNING
from streamdiffvsr.runtime.live.service import NameTaken, Service, UnknownCamera
from streamdiffvsr.tests.live.cameras import Openings, service_of, settings
from streamdiffvsr.tests.live.tiles import wait_for

pytest.importorskip("aiohttp", reason="cameras of a service have a page")


@pytest.fixture
def openings() -> Openings:
    return Openings()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def service(openings: Openings, told: list[str]) -> Iterator[Service]:
    made = service_of(openings, told)
    yield made
    made.close()


def frames(service: Service, name: str) -> int:
    return int(service.find(name).status().get("frames") or 0)


def runs(service: Service, name: str) -> None:
    """Waits until frames of a camera go on coming."""
    wait_for(lambda: service.find(name).state == RUNNING and frames(service, name) > 2)
    before = frames(service, name)
    wait_for(lambda: frames(service, name) > before)


def test_a_camera_that_cannot_be_opened_is_tried_again_after_growing_pauses(
    service: Service, openings: Openings, told: list[str]
) -> None:
    openings.fails["bad"] = [StreamDiffVSRError("no such device", "it is gone") for _ in range(3)]
    service.add("good", settings("good"))
    service.add("bad", settings("bad"))
    wait_for(lambda: service.find("bad").restarts >= 1)
    status = service.find("bad").status()
    if status["camera"]["state"] == FAILED:  # not in between
        assert "it is gone" in status["camera"]["why"]
    runs(service, "bad")
    runs(service, "good")
    assert service.find("bad").restarts == 3 and service.find("good").restarts == 0
    pauses = [
        float(line.rpartition(" in ")[2].removesuffix(" s")) for line in told if " in " in line
    ]
    assert len(pauses) == 3 and pauses[0] < pauses[1] < pauses[2]
    assert all(line.startswith("bad: ") for line in told if "it is gone" in line)


def test_an_exception_in_the_code_of_one_camera_disturbs_no_other(
    service: Service, openings: Openings
) -> None:
    for name in ("one", "two", "three"):
        service.add(name, settings(name))
    for name in ("one", "two", "three"):
        runs(service, name)

    def breaks(frame: object) -> None:
        raise RuntimeError("a mistake in the code")

    before = {name: frames(service, name) for name in ("one", "three")}
    openings.sessions["two"]._upscale = breaks  # type: ignore[method-assign, assignment]
    wait_for(lambda: service.find("two").restarts == 1)
    runs(service, "two")
    for name in ("one", "three"):
        assert service.find(name).restarts == 0 and frames(service, name) > before[name]


def test_a_pause_closes_its_files_and_going_on_writes_to_others(
    service: Service, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    out = tmp_path / "yard.mkv"
    camera = service.add("yard", settings("yard", to=(str(out),)))
    runs(service, "yard")
    wait_for(lambda: any(sink.get("written") for sink in camera.status()["sinks"]))
    camera.pause()
    wait_for(lambda: camera.state == PAUSED and camera.status()["size"] is None)
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
    time.sleep(0.3)
    assert camera.state == PAUSED
    camera.resume()
    runs(service, "yard")
    wait_for(lambda: (tmp_path / "yard-2.mkv").exists())


def test_a_camera_may_begin_paused_and_a_resume_of_one_that_runs_does_nothing(
    service: Service, openings: Openings
) -> None:
    camera = service.add("yard", settings("yard", paused=True))
    time.sleep(0.2)
    assert camera.state == PAUSED and not openings.opened
    camera.resume()
    runs(service, "yard")
    camera.resume()
    before = frames(service, "yard")
    wait_for(lambda: frames(service, "yard") > before + 3)
    assert openings.opened == ["yard"]
    camera.restart()
    wait_for(lambda: openings.opened == ["yard", "yard"])
    runs(service, "yard")


def test_a_source_that_has_ended_stays_so_until_a_restart(
    service: Service, openings: Openings
) -> None:
    camera = service.add("clip", settings("clip"))
    runs(service, "clip")

    def over(timeout_s: float) -> None:
        raise EOFError

    openings.sessions["clip"]._source.newest = over  # type: ignore[method-assign, assignment]
    wait_for(lambda: camera.state == ENDED)
    assert camera.status()["camera"]["why"] == "the source has ended"
    camera.restart()
    runs(service, "clip")


def test_what_is_removed_is_closed_and_its_name_is_free(service: Service) -> None:
    before = threading.active_count()
    service.add("yard", settings("yard"))
    runs(service, "yard")
    with pytest.raises(NameTaken, match="already"):
        service.add("yard", settings("yard"))
    service.remove("yard")
    wait_for(lambda: threading.active_count() == before)
    with pytest.raises(UnknownCamera, match="yard"):
        service.remove("yard")
    service.add("yard", settings("yard"))
    runs(service, "yard")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 64, "-x", "ü"])
def test_a_name_that_is_no_part_of_an_address_is_refused(service: Service, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        service.add(name, settings())


def test_a_file_that_changes_disturbs_only_what_has_changed(
    service: Service, openings: Openings
) -> None:
    first = {name: settings(name) for name in ("same", "changed", "gone")}
    assert service.follow(first) == "added same, changed, gone"
    service.add("guest", settings("guest"))
    for name in ("same", "changed", "gone", "guest"):
        runs(service, name)
    kept = service.find("same"), service.find("guest")
    second = {"same": first["same"], "changed": settings("other"), "new": settings("new")}
    assert service.follow(second) == "added new; removed gone; restarted changed"
    assert (service.find("same"), service.find("guest")) == kept
    runs(service, "changed")
    assert openings.opened.count("same") == openings.opened.count("guest") == 1
    assert openings.opened[-2:] in (["other", "new"], ["new", "other"])
    assert list(service.cameras) == ["same", "guest", "changed", "new"]
    assert service.follow(second) == "nothing changed"


def test_all_end_at_the_same_time(openings: Openings, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    made = service_of(openings)
    files = [tmp_path / f"{n}.mkv" for n in range(3)]
    for n, file in enumerate(files):
        made.add(f"c{n}", settings(str(n), to=(str(file),)))
    for n in range(3):
        runs(made, f"c{n}")
    wait_for(lambda: all(file.exists() for file in files))
    began = time.monotonic()
    assert not made.close()
    assert time.monotonic() - began < 5
    for file in files:
        with av.open(str(file)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0


def test_a_camera_that_would_write_to_the_output_of_another_is_refused(
    service: Service, tmp_path: Path
) -> None:
    service.add("a", settings("a", to=(str(tmp_path / "a.mkv"), "null")))
    twice = (f"{tmp_path}/./a.mkv", "null")
    with pytest.raises(UsageError, match="'a' writes to such an output already"):
        service.add("b", settings("b", to=twice))
    service.remove("a")
    service.add("b", settings("b", to=twice))
