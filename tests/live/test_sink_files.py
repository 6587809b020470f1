"""Tests what lies on the disk after a live recording: files, playlists, images."""

import os
import threading

import pytest

from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.tests.live.receivers import FPS, PATCH, children, feed, look, output, wait_until

BT601, BT709 = (6, 1, 6, 6), (1, 1, 1, 1)


@pytest.fixture
def told():
    return []


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts"])
def test_a_recording_plays_back_as_it_was_offered(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    sink = open_sink(str(path))
    assert sink.status()["state"] == "waiting"
    times = [index / FPS + 0.01 * (index % 3) for index in range(45)]
    feed(sink, [output(index, seconds=time) for index, time in enumerate(times)])
    assert sink.status()["state"] == "open"
    sink.close(10)
    seen = look(path)
    assert seen.numbers == list(range(45))
    assert seen.monotone
    tick = 0.001 if ending == "mkv" else 1 / 90000
    assert seen.seconds == pytest.approx([time + seen.seconds[0] for time in times], abs=tick)
    assert seen.colour == BT601
    assert seen.patch == pytest.approx(PATCH, abs=4)
    assert seen.keys[0]
    status = sink.status()
    assert (status["state"], status["written"], status["dropped"]) == ("closed", 45, 0)
    assert children() == []


def test_from_720_lines_colours_are_bt709(tmp_path):
    sink = open_sink(str(tmp_path / "out.mkv"))
    feed(sink, [output(index, (720, 1280)) for index in range(3)])
    sink.close(10)
    seen = look(tmp_path / "out.mkv")
    assert (seen.numbers, seen.colour) == ([0, 1, 2], BT709)
    assert seen.patch == pytest.approx(PATCH, abs=4)


def test_times_that_stand_still_or_go_back_are_moved_on(tmp_path):
    sink = open_sink(str(tmp_path / "out.mkv"))
    for index, seconds in enumerate([0, 0, 0.00001, 0.5, 0.2, 0.6]):
        feed(sink, [output(index, seconds=seconds)])
    sink.close(10)
    seen = look(tmp_path / "out.mkv")
    assert seen.numbers == list(range(6))
    assert seen.seconds == pytest.approx([0, 0.001, 0.002, 0.5, 0.501, 0.6], abs=0.0011)
    assert seen.monotone


def test_another_frame_size_goes_on_in_another_file(tmp_path, told):
    (tmp_path / "out-2.mkv").write_bytes(b"of another recording")
    sink = open_sink(str(tmp_path / "out.mkv"), tell=told.append)
    feed(sink, [output(index) for index in range(5)])
    feed(sink, [output(index, (360, 480)) for index in range(5, 12)])
    assert sink.status()["file"] == "out-3.mkv"
    sink.close(10)
    first, second = look(tmp_path / "out.mkv"), look(tmp_path / "out-3.mkv")
    assert (first.numbers, first.sizes) == (list(range(5)), {(180, 320)})
    assert (second.numbers, second.sizes) == (list(range(5, 12)), {(360, 480)})
    assert second.seconds[0] == 0
    assert "480x360 now: going on in 'out-3.mkv'" in told[0]
    assert (sink.status()["dropped"], sink.status()["reopened"]) == (0, 1)


def test_a_playlist_is_read_while_it_is_written_and_forgets_what_is_old(tmp_path):
    playlist = tmp_path / "live.m3u8"
    sink = open_sink(str(playlist))
    feed(sink, [output(index, seconds=index / 4) for index in range(80)])  # 20 s in few frames
    growing = playlist.read_text()
    assert "#EXT-X-ENDLIST" not in growing
    names = [line for line in growing.splitlines() if line.endswith(".ts")]
    assert len(names) == 6
    assert all((tmp_path / name).is_file() for name in names)
    assert not (tmp_path / "live-00000.ts").exists()
    feed(sink, [output(index, (360, 480), seconds=index / 4) for index in range(80, 100)])
    sink.close(10)
    text = playlist.read_text()
    assert text.count("#EXT-X-DISCONTINUITY\n") == 1
    assert "#EXT-X-ENDLIST" in text
    seen = look(playlist)
    assert seen.numbers == list(range(seen.numbers[0], 100))
    assert len(seen.numbers) > 40
    last = sorted(tmp_path.glob("live-*.ts"))[-1]
    assert look(last).numbers[-1] == 99
    assert look(last).sizes == {(360, 480)}


def test_overwriting_a_playlist_removes_its_segments(tmp_path):
    (tmp_path / "live.m3u8").write_text("#EXTM3U\nlive-00077.ts\n../live-00078.ts\nmine.ts\n")
    for name in ("live-00077.ts", "mine.ts"):
        (tmp_path / name).write_bytes(b"old")
    sink = open_sink(str(tmp_path / "live.m3u8"), overwrite=True)
    feed(sink, [output(0)])
    sink.close(10)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "live-00000.ts",
        "live.m3u8",
        "mine.ts",
    ]


@pytest.mark.parametrize(("name", "ending", "error"), [("", "png", 0), ("%04d.jpg", "jpg", 4)])
def test_a_folder_of_images(tmp_path, name, ending, error):
    folder = tmp_path / "images"
    sink = open_sink(f"{folder}{os.sep}{name}")
    feed(sink, [output(index) for index in range(4)])
    feed(sink, [output(4, (360, 480))])
    sink.close(10)
    digits = "0000" if name else "000000"
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"{digits}{i}"[1:] + f".{ending}" for i in range(5)]
    seen = [look(path) for path in paths]
    assert [one.numbers for one in seen] == [[index] for index in range(5)]
    assert [one.sizes for one in seen] == [{(180, 320)}] * 4 + [{(360, 480)}]
    assert all(one.patch == pytest.approx(PATCH, abs=error) for one in seen)


def test_a_file_that_came_into_being_meanwhile_is_left_alone(tmp_path, told):
    path = tmp_path / "out.mkv"
    sink = open_sink(str(path), tell=told.append)
    path.write_bytes(b"another's")
    feed(sink, [output(0)])
    wait_until(lambda: told)
    assert path.read_bytes() == b"another's"
    assert told == [f"could not write {str(path)!r}: it already exists"]
    assert sink.status()["state"] == "failed"
    sink.close(1)


def test_overwriting_is_done_on_request(tmp_path):
    path = tmp_path / "out.mkv"
    path.write_bytes(b"old")
    sink = open_sink(str(path), overwrite=True)
    feed(sink, [output(0)])
    sink.close(10)
    assert look(path).numbers == [0]


def test_frames_offered_too_fast_are_dropped_and_counted(tmp_path):
    sink = open_sink(str(tmp_path / "out.mkv"))
    for index in range(200):
        sink.offer(output(index))
    sink.close(10)
    status, seen = sink.status(), look(tmp_path / "out.mkv")
    assert status["written"] + status["dropped"] == 200
    assert len(seen.numbers) == status["written"]
    assert seen.numbers[-1] == 199
    assert seen.monotone


def test_closing_before_the_first_frame_leaves_nothing(tmp_path):
    sink = open_sink(str(tmp_path / "out.mkv"))
    sink.close(2)
    sink.close(2)
    sink.offer(output(0))
    assert list(tmp_path.iterdir()) == []
    assert (sink.status()["state"], sink.status()["dropped"]) == ("closed", 1)


def test_the_thread_of_a_sink_ends_with_it(tmp_path):
    before = threading.active_count()
    sink = open_sink(str(tmp_path / "out.mkv"))
    feed(sink, [output(0)])
    sink.close(10)
    wait_until(lambda: threading.active_count() == before)
