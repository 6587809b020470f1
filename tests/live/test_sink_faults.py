"""Tests what lies on the disk after a kill, a full disk, an encoder that hangs."""

import subprocess
import sys
import time

import psutil
import pytest

from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.tests.live.receivers import FPS, children, feed, look, output, wait_until

SLOW_MKV, SLOW_TS = (pytest.param(ending, marks=pytest.mark.slow) for ending in ("mkv", "ts"))
RECORDER = """
import sys, time
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.tests.live.receivers import feed, output
sink = open_sink(sys.argv[1])
for index in range(10_000):
    feed(sink, [output(index)])
    print(sink.status()["written"], flush=True)
"""


@pytest.fixture
def told():
    return []


def encoder_pid() -> int:
    """The one process that encodes now."""
    (child,) = children()
    return child.pid


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "mkv", SLOW_TS])
def test_a_killed_encoder_costs_a_second_at_most_and_recording_goes_on(tmp_path, told, ending):
    path = tmp_path / f"out.{ending}"
    sink = open_sink(str(path), tell=told.append)
    feed(sink, [output(index) for index in range(100)])
    psutil.Process(encoder_pid()).kill()
    feed(sink, [output(100)])
    wait_until(lambda: sink.status()["state"] == "retrying")
    feed(sink, [output(index) for index in range(101, 120)])
    sink.close(10)
    first, second = look(path), look(tmp_path / f"out-2.{ending}")
    assert first.numbers == list(range(len(first.numbers)))
    assert len(first.numbers) >= 100 - FPS
    assert second.numbers[-1] == 119
    assert second.keys[0]
    assert second.monotone
    assert sink.status()["reopened"] == 1
    assert "killed by signal 9" in told[0]
    assert f"going on in 'out-2.{ending}'" in told[1]


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.parametrize("ending", ["mp4", SLOW_MKV])
def test_a_killed_recorder_leaves_a_whole_file_and_no_process(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    recorder = subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    written = 0
    while written < 80:
        written = int(recorder.stdout.readline())
    encoders = psutil.Process(recorder.pid).children(recursive=True)
    assert encoders
    recorder.kill()
    recorder.wait()
    recorder.stdout.close()
    _, left = psutil.wait_procs(encoders, timeout=10)
    assert left == []
    seen = look(path)
    assert len(seen.numbers) >= written  # its encoder finishes the file
    assert seen.numbers == list(range(len(seen.numbers)))
    assert seen.monotone


@pytest.mark.skipif(sys.platform == "win32", reason="ends by signal")
def test_a_service_manager_that_ends_all_processes_leaves_the_file_to_the_sink(tmp_path):
    sink = open_sink(str(tmp_path / "out.mkv"))
    feed(sink, [output(0)])
    psutil.Process(encoder_pid()).terminate()
    feed(sink, [output(index) for index in range(1, 10)])
    sink.close(10)
    assert look(tmp_path / "out.mkv").numbers == list(range(10))
    assert sink.status()["reopened"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
@pytest.mark.parametrize("ending", ["mp4", SLOW_MKV, SLOW_TS])
def test_a_full_disk_ends_that_sink_with_one_line_and_no_other(tmp_path, told, ending):
    import resource

    path = tmp_path / f"out.{ending}"
    sink, other = open_sink(str(path), tell=told.append), open_sink(str(tmp_path / "other.ts"))
    feed(sink, [output(index) for index in range(60)])
    room = path.stat().st_size + 20_000
    resource.prlimit(encoder_pid(), resource.RLIMIT_FSIZE, (room, room))
    for index in range(60, 400):
        feed(sink, [output(index)])
        if sink.status()["state"] == "failed":
            break
    written = sink.status()["written"]
    wait_until(lambda: told)
    assert told == [
        f"could not write {str(path)!r}: the file has grown to the largest size allowed here"
    ]
    assert sink.status()["error"] in told[0]
    seen = look(path)
    assert len(seen.numbers) >= written - FPS
    assert seen.numbers == list(range(len(seen.numbers)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]  # and no further part
    feed(other, [output(index) for index in range(5)])
    dropped = sink.status()["dropped"]
    sink.offer(output(401))
    assert sink.status()["dropped"] == dropped + 1
    for one in (sink, other):
        one.close(10)
    assert look(tmp_path / "other.ts").numbers == list(range(5))
    assert sink.status()["state"] == "failed"


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
@pytest.mark.parametrize("name", ["live.m3u8", "images/"])
def test_a_full_disk_is_told_of_segments_and_images_too(tmp_path, told, name):
    import resource

    sink = open_sink(f"{tmp_path}/{name}", tell=told.append)
    feed(sink, [output(0)])
    resource.prlimit(encoder_pid(), resource.RLIMIT_FSIZE, (500, 500))
    for index in range(1, 100):
        feed(sink, [output(index, seconds=index / 4)])
        if sink.status()["state"] == "failed":
            break
    wait_until(lambda: told)
    why = "the file has grown to the largest size allowed here"
    assert told == [f"could not write '{tmp_path}/{name}': {why}"]
    assert sink.status()["dropped"] >= 1
    sink.close(2)
    assert not list(tmp_path.glob("images/.*"))


def test_a_playlist_is_gone_on_with_after_a_crash(tmp_path, told):
    playlist = tmp_path / "live.m3u8"
    sink = open_sink(str(playlist), tell=told.append)
    feed(sink, [output(index, seconds=index / 4) for index in range(20)])
    psutil.Process(encoder_pid()).kill()
    feed(sink, [output(index, seconds=index / 4) for index in range(20, 41)])
    sink.close(10)
    text = playlist.read_text()
    assert text.count("#EXT-X-DISCONTINUITY\n") == 1
    assert "#EXT-X-ENDLIST" in text
    seen = look(playlist)
    assert seen.numbers == [*range(16), *range(seen.numbers[16], 41)]
    assert 20 <= seen.numbers[16] <= 22
    assert seen.monotone
    assert told[-1] == f"{playlist}: open again"


@pytest.mark.skipif(sys.platform == "win32", reason="stops by signal")
def test_an_encoder_that_hangs_is_ended_within_the_deadline(tmp_path, told):
    sink = open_sink(str(tmp_path / "out.mkv"), tell=told.append)
    feed(sink, [output(index) for index in range(60)])
    psutil.Process(encoder_pid()).suspend()
    sink.offer(output(60))
    started = time.monotonic()
    sink.close(2)
    assert time.monotonic() - started < 2.2
    assert children() == []
    assert len(look(tmp_path / "out.mkv").numbers) >= 60 - FPS
    assert "it did not finish in time" in told[-1]
