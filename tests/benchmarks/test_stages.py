"""Each stage's reported time is the one it takes, and the stages explain the frame."""

from __future__ import annotations

import itertools

import pytest

from streamdiffvsr.benchmarks.observed import ObservedDevice, Recorder, Span
from streamdiffvsr.benchmarks.subject import Times, numbered, plain_lane, stage_table, watched
from streamdiffvsr.engines.cpu_device import CpuDevice
from streamdiffvsr.runtime.upscaler import Mode, Upscaler
from streamdiffvsr.tests.benchmarks.taking import MS, TwinOfAGpu, taking_upscaler

FRAMES = 6
STEPS = [f"denoise {number}" for number in range(1, 5)]


def plain_run(upscaler: Upscaler) -> tuple[list[Span], list[float]]:
    recorder, times = Recorder(), Times()
    lane = plain_lane(upscaler, recorder)
    for _ in range(2):
        lane.frame(Times())
    recorder.take()
    for _ in range(FRAMES):
        lane.frame(times)
    lane.close()
    return recorder.take(), times.frame


@pytest.mark.parametrize("device", [CpuDevice(), TwinOfAGpu()], ids=["host", "streams"])
def test_the_table_has_what_each_stage_takes_and_adds_up_to_the_frame(device: CpuDevice) -> None:
    spans, frames = plain_run(taking_upscaler(device))
    table = stage_table(spans, frames, 4)
    copies = {"upload", "download"} if device.name == "cuda" else set()
    assert set(table["order"]) == (MS.keys() - {"denoise"}) | set(STEPS) | copies
    for name in set(table["order"]) - copies:
        wanted = MS[name.split()[0]]
        assert wanted <= table["ms"][name]["p50"] < wanted + 10, name
        assert table["ms"][name]["n"] == FRAMES
    assert 0.9 < table["accounted"] <= 1.001
    assert table["frame_p50"] >= 86


def test_stages_are_in_the_order_of_a_frame() -> None:
    spans, frames = plain_run(taking_upscaler(TwinOfAGpu()))
    order = stage_table(spans, frames, 4)["order"]
    assert order[0] == "upload" and order[-2:] == ["decode", "download"]
    assert order.index("flow") < order.index("guide") < order.index("denoise 1")


def test_in_the_plain_loop_nothing_lies_beside_anything() -> None:
    spans, _ = plain_run(taking_upscaler(TwinOfAGpu()))
    ordered = sorted(spans, key=lambda span: span.start_ms)
    assert {span.track for span in ordered} == {"all"}
    for before, after in itertools.pairwise(ordered):
        assert after.start_ms >= before.end_ms


def test_overlapped_stages_show_beside_each_other_on_their_streams() -> None:
    recorder = Recorder()
    upscaler = watched(taking_upscaler(TwinOfAGpu()), recorder)
    frames = upscaler.stream(_counted(recorder, upscaler), overlap=True)
    for _ in range(8):
        next(frames)
    frames.close()
    spans = {(span.frame, span.name): span for span in numbered(recorder.take(), 4)}
    assert spans[5, "flow"].track == "input" and spans[4, "denoise 1"].track == "denoise"
    assert spans[4, "temporal"].track == "output"
    assert _beside(spans[5, "flow"], spans[4, "denoise 2"], spans[4, "denoise 3"])
    assert _beside(spans[4, "temporal"], spans[4, "denoise 1"])
    assert spans[5, "guide"].start_ms >= spans[4, "decode"].end_ms


def test_the_steps_of_a_frame_in_tiles_are_told_apart() -> None:
    spans = [Span(0, "denoise", "host", i, i + 1) for i in range(6)]
    assert [s.name for s in numbered(spans, 3)] == [
        "denoise 1", "denoise 1", "denoise 2", "denoise 2", "denoise 3", "denoise 3",
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "launches"), [("latency", 1), ("throughput", 4)])
def test_what_the_host_puts_on_streams_is_counted(mode: Mode, launches: int) -> None:
    """Captured: the whole frame at once, or three parts and the way back."""
    stand_in = taking_upscaler(TwinOfAGpu())
    device = ObservedDevice(stand_in.device, captures=True)
    upscaler = Upscaler(stand_in.manifest, stand_in.engines, device)
    run = upscaler.run(upscaler.initial_state(), mode)
    frames = _counted(Recorder(), upscaler)
    for _ in range(8):
        run.begin(next(frames))
        run.finish()
    before = device.launches
    run.begin(next(frames))
    run.finish()
    assert device.launches - before == launches and run.plain == {}


def _beside(one: Span, *others: Span) -> bool:
    return any(one.start_ms < o.end_ms and o.start_ms < one.end_ms for o in others)


def _counted(recorder: Recorder, upscaler: Upscaler):  # type: ignore[no-untyped-def]
    from streamdiffvsr.benchmarks.statistics import endless

    for recorder.frame, frame in enumerate(endless(upscaler.size)):
        yield frame
