"""A live source at cameras of a few frames a second, and how long each attempt may take."""

from __future__ import annotations

import time

import pytest

from streamdiffvsr.runtime.live.connection import Connection, Disconnected
from streamdiffvsr.runtime.live.frame import Continuity
from streamdiffvsr.tests.live.receivers import output
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.watching import watch


@pytest.mark.slow
@needs_rtsp_server
@pytest.mark.parametrize("fps", [1, 2, 5])
def test_a_slow_camera_plays_and_is_not_stalled_between_its_frames(fps):
    with RtspServer(size="96x64", fps=fps, gop=8) as server:
        began = time.monotonic()
        with watch(server.url) as source:
            frames = [source.frame() for _ in range(6)]
            status = source.status()
    assert (status["attempts"], status["reconnects"]) == (1, 0)
    assert {frame.epoch for frame in frames} == {0}
    # The camera begins with a key frame, which is read while it is opened, and not lost: the next
    # comes 8 frames later.
    assert frames[0].captured - began < 3 / fps + 2
    assert status["fps"] == pytest.approx(fps, rel=0.3)


@pytest.mark.slow
@needs_rtsp_server
def test_a_slow_camera_that_freezes_is_noticed_by_its_own_rate():
    with RtspServer(size="96x64", fps=2, gop=5) as server, watch(server.url) as source:
        for _ in range(6):
            source.frame()
        server.stop()
        frozen = time.monotonic()
        source.until(lambda status: status["state"] == "waiting")
        assert 1.5 < time.monotonic() - frozen < 5
        assert "nothing came for 2" in str(source.told)


@pytest.mark.parametrize(
    ("asked", "period_s", "silent_s", "stalled"),
    [
        (None, None, 9.0, False),  # before the rate is known
        (None, None, 11.0, True),
        (None, 0.04, 1.9, False),
        (None, 0.04, 2.1, True),
        (None, 1.0, 3.9, False),
        (None, 1.0, 4.1, True),
        (1.5, 1.0, 1.6, True),  # what the user asks for is kept to
        (9.0, 0.04, 8.0, False),
    ],
)
def test_the_longest_silence_follows_from_the_rate(asked, period_s, silent_s, stalled):
    class Playing(Connection):
        def __init__(self) -> None:
            self._patience_s, self._stall_s, self._opening_since = 0.0, asked, None

    judge = Playing()._check_silence
    if not stalled:
        judge(silent_s, period_s)
        return
    with pytest.raises(Disconnected, match="nothing came for"):
        judge(silent_s, period_s)


def test_the_usual_pause_of_a_slow_camera_is_no_gap():
    continuity = Continuity(lambda: 0)

    def reset(index: int, seconds: float) -> str | None:
        frame = output(index, seconds=seconds).source
        continuity.note(frame)
        return continuity.why_forget(frame)

    reasons = [reset(index, 2.0 * index) for index in range(8)]
    assert reasons[3:] == [None] * 5
    assert reset(8, 14 + 7.0) == "gap"
