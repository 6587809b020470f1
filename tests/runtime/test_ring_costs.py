"""Tests what a frame costs the host: launches, waits, noise drawn while the device works."""

from __future__ import annotations

from typing import Any

import pytest

from streamdiffvsr import StreamState
from streamdiffvsr.runtime.frame_stream import mark_images
from streamdiffvsr.runtime.state import HeldOutput
from streamdiffvsr.runtime.upscaler import Mode
from streamdiffvsr.tests.runtime.simulated import SimulatedDevice, mixing_upscaler, some_frames


def test_nothing_is_allocated_and_the_host_waits_once_a_frame() -> None:
    device = SimulatedDevice(0, captures=False)
    stream = mixing_upscaler(device).stream(some_frames(20), overlap=True)
    next(stream)
    device.calls.clear()
    assert len(list(stream)) == 19
    assert device.calls == ["wait"] * 19


def test_a_frame_is_one_launch_and_of_overlapped_frames_three() -> None:
    for mode, launches in (("latency", 1), ("throughput", 3)):
        device = SimulatedDevice(0)
        stream = mixing_upscaler(device).stream(some_frames(20), overlap=True, mode=mode)
        for _ in range(8):  # every slot has seen a frame, and been captured
            next(stream)
        device.calls.clear()
        next(stream)
        assert sorted(device.calls) == ["launch"] * launches + ["wait"]


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_the_raw_output_stays_on_the_device_until_someone_asks(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = HeldOutput.read
    monkeypatch.setattr(HeldOutput, "read", lambda held: read.append(id(held)) or real(held))
    frames = mixing_upscaler(SimulatedDevice(0)).stream_frames(
        mark_images(some_frames(12)), overlap=True, mode=mode
    )
    for number, frame in enumerate(frames):
        assert not read
        if number == 8:
            assert frame.raw() is not None and len(read) == 1
            read.clear()


def test_what_cannot_be_captured_runs_plainly_and_is_told() -> None:
    for captures, plain_parts in ((True, {}), (False, {"enter", "refine", "decode"})):
        device = SimulatedDevice(0, captures=captures)
        run = mixing_upscaler(device).run(StreamState(), "throughput")
        for frame in some_frames(10):
            run.begin(frame)
            run.finish()
        assert set(run.plain) == set(plain_parts)
        assert all("captures nothing" in why for why in run.plain.values())


def test_noise_is_drawn_while_the_device_works_and_never_twice() -> None:
    """A step waits for nothing of the host's that could have been done before."""
    device = SimulatedDevice(0)
    up = mixing_upscaler(device)
    drawn: list[int] = []
    inner = up._latent

    def latent(state: StreamState, noise: Any) -> Any:
        drawn.append(state.frame_index)
        device.calls.append("drawn")
        return inner(state, noise)

    up._latent = latent
    run = up.run(StreamState())
    for frame in some_frames(3):
        run.begin(frame)
        device.calls.append("begun")
        run.finish()
    assert drawn == [0, 1, 2, 3]
    calls = [call for call in device.calls if call in ("drawn", "begun", "wait")]
    # Of the second frame and the third: begun at once, drawn for the next, then waited for.
    assert calls[calls.index("begun") + 1 :].count("drawn") == 3
    after = calls[calls.index("begun") :]
    assert after[0] == "begun" and after[1] == "drawn" and after[2] == "wait"
