"""Tests the virtual camera: what is said where there is none, and, with a stand-in for the driver
that is preloaded into the child, the format that is asked for and the frames that are written."""

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.benchmarks.clock_code import read
from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live import sink_targets
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink, open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.receivers import PATCH, children, feed, output, wait_until

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="virtual cameras are of Linux")
DEVICE = "/dev/video-stand-in"


@on_linux
def test_an_address_names_a_device():
    target = parse_target("v4l2:/dev/video9")
    assert (target.kind, target.where, target.shown) == (
        "camera",
        "/dev/video9",
        "v4l2:/dev/video9",
    )
    with pytest.raises(UsageError, match="it names no device; write v4l2:/dev/video9"):
        parse_target("v4l2:video9")


def test_other_systems_have_none(monkeypatch):
    monkeypatch.setattr(sink_targets.sys, "platform", "darwin")
    with pytest.raises(StreamDiffVSRError, match="virtual cameras are of Linux only"):
        parse_target("v4l2:/dev/video9")


@on_linux
@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("/dev/video987", "there is no such device; load it with: modprobe v4l2loopback"),
        ("/dev/null", "/dev/null is no output of v4l2loopback; load it with: modprobe"),
    ],
)
def test_what_is_no_virtual_camera_fails_for_good(device, says):
    told = []
    sink = open_sink(f"v4l2:{device}", tell=told.append)
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "failed")
    sink.close(2)
    assert says in told[0]


@pytest.fixture
def driver(tmp_path, monkeypatch) -> Path:
    """A stand-in for the driver in every child from now on; returns the folder of what it saw."""
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path / "driver.so"
    source = Path(__file__).with_name("v4l2_stand_in.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("V4L2_DEVICE", DEVICE)
    monkeypatch.setenv("V4L2_LOG", str(tmp_path / "formats"))
    monkeypatch.setenv("V4L2_FRAMES", str(tmp_path / "frames"))
    return tmp_path


def pictures(data: bytes, size: tuple[int, int]) -> list[np.ndarray]:
    """The RGB pictures of what was written."""
    height, width = size
    each = height * width * 3 // 2
    assert len(data) % each == 0
    found = []
    for begin in range(0, len(data), each):
        planes = np.frombuffer(data[begin : begin + each], np.uint8).reshape(-1, width)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.colorspace, frame.color_range = 6, 1
        found.append(frame.to_ndarray(format="rgb24"))
    return found


@pytest.mark.slow
def test_the_driver_gets_a_format_and_every_frame(driver):
    sink = open_sink(f"v4l2:{DEVICE}")
    feed(sink, [output(index) for index in range(20)])
    feed(sink, [output(index, (360, 480)) for index in range(20, 25)])
    sink.close(10)
    assert sink.status()["error"] == ""
    assert (driver / "formats").read_text().split("\n")[:2] == ["320x180 YU12", "480x360 YU12"]
    data = (driver / "frames").read_bytes()
    split = 20 * 180 * 320 * 3 // 2
    first, second = pictures(data[:split], (180, 320)), pictures(data[split:], (360, 480))
    assert [read(picture) for picture in first] == list(range(20))
    assert [read(picture) for picture in second] == list(range(20, 25))
    assert first[3][40:-10, 20:100].mean(axis=(0, 1)) == pytest.approx(PATCH, abs=4)


@pytest.mark.slow
def test_a_camera_in_use_is_tried_again(driver, monkeypatch):
    monkeypatch.setenv("V4L2_BUSY", "1")
    told = []
    sink = EncodedSink(parse_target(f"v4l2:{DEVICE}"), tell=told.append, backoff=Backoff(0.1, 0.2))
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "retrying")
    monkeypatch.delenv("V4L2_BUSY")
    feed(sink, [output(index) for index in range(1, 5)])
    wait_until(lambda: sink.status()["state"] == "open")
    sink.close(5)
    assert "it is in use with another size; close the programs that show it" in told[0]
    assert children() == []
