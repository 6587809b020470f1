"""The pure parts of a live source: waits, times, pace, and which frames can be trusted."""

import pytest

from streamdiffvsr.runtime.live.capture_child import Pace, Quarantine
from streamdiffvsr.runtime.live.mailbox_child import Arrivals
from streamdiffvsr.runtime.live.source import REFUSED, Backoff, Timeline


def test_waits_double_with_jitter_up_to_the_longest():
    backoff = Backoff()
    for expected in (1, 2, 4, 8, 16, 30, 30, 30):
        assert expected <= backoff.after("lost", 1.0) <= expected + 0.5
    waits = {Backoff().after("lost", 0.0) for _ in range(8)}
    assert len(waits) > 1


def test_only_a_source_that_played_steadily_begins_anew():
    backoff = Backoff()
    for _ in range(5):
        backoff.after("lost", 29.9)
    assert backoff.after("lost", 29.9) >= 30
    assert backoff.after("lost", 30.0) <= 1.5


def test_a_refusal_is_not_hammered():
    backoff = Backoff()
    for _ in range(3):
        assert backoff.after(REFUSED, 0.0) >= 60


def test_times_start_at_zero_and_follow_the_source():
    timeline = Timeline()
    placed = [timeline.place(7 + n / 30, 100 + n / 30) for n in range(4)]
    assert placed == [(pytest.approx(n / 30), False) for n in range(4)]


def test_a_reconnection_goes_on_behind_the_time_that_it_took():
    timeline = Timeline()
    timeline.place(50.0, 100.0)
    timeline.place(51.0, 101.0)
    timeline.restart()
    assert timeline.place(3.0, 104.5) == (pytest.approx(4.5), False)
    assert timeline.place(3.1, 104.6) == (pytest.approx(4.6), False)


@pytest.mark.parametrize("own", [2.0, 45_000.0])
def test_a_jump_of_the_clock_is_told_and_bridged(own):
    timeline = Timeline()
    timeline.place(10.0, 100.0)
    assert timeline.place(own, 100.1) == (pytest.approx(0.1), True)
    assert timeline.place(own + 0.1, 100.2) == (pytest.approx(0.2), False)


def test_a_pause_is_no_jump():
    timeline = Timeline()
    timeline.place(10.0, 100.0)
    assert timeline.place(30.0, 120.0) == (pytest.approx(20.0), False)


def test_frames_without_times_are_placed_by_their_arrival():
    timeline = Timeline()
    assert timeline.place(None, 100.0) == (0.0, False)
    assert timeline.place(None, 100.5) == (0.5, False)
    assert timeline.place(9.0, 100.75) == (0.75, False)


def test_a_clock_that_is_matched_after_its_first_frames_has_not_jumped():
    timeline = Timeline(matched_late=True)
    assert timeline.place(5.0, 100.0) == (0.0, False)
    assert timeline.place(4.9, 100.1) == (pytest.approx(0.1), False)
    assert timeline.place(5.0, 100.2) == (pytest.approx(0.2), False)
    assert timeline.place(3.5, 100.3) == (pytest.approx(0.3), True)  # too far for that
    assert timeline.place(3.4, 120.0) == (pytest.approx(20.0), True)  # too late for it


def test_time_never_stands_still():
    timeline = Timeline()
    timeline.place(1.0, 100.0)
    seconds = [timeline.place(1.0, 100.0)[0] for _ in range(5)]
    assert seconds == sorted(set(seconds))
    assert seconds[0] > 0


class Clock:
    """Time that passes only in sleeps."""

    alive: float | None = 0.0

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert self.alive is None  # waiting is no silence of the source
        self.slept.append(seconds)
        self.now += seconds


def paced(clock: Clock) -> Pace:
    return Pace(clock, clock=lambda: clock.now, sleep=clock.sleep)


def test_a_pace_is_that_of_the_frames_own_times():
    clock = Clock()
    pace = paced(clock)
    for seconds in (5.0, 5.1, 5.3):
        pace.wait(seconds)
    assert clock.slept == pytest.approx([0.1, 0.2])


def test_a_late_frame_is_not_held_back_and_the_next_ones_catch_up():
    clock = Clock()
    pace = paced(clock)
    pace.wait(0.0)
    clock.now += 1.0
    for seconds in (0.4, 0.8, 1.2):
        pace.wait(seconds)
    assert clock.slept == pytest.approx([0.2])


@pytest.mark.parametrize("jump", [0.0, 100.0])
def test_a_pace_starts_again_behind_a_jump(jump):
    clock = Clock()
    pace = paced(clock)
    pace.wait(20.0)
    pace.wait(jump)
    pace.wait(jump + 0.5)
    assert clock.slept == pytest.approx([0.5])


def test_frames_without_times_have_a_pace_too():
    clock = Clock()
    pace = paced(clock)
    for _ in range(3):
        pace.wait(None)
    assert clock.slept == pytest.approx([1 / 25, 1 / 25])


def test_nothing_is_decoded_before_the_first_key_frame():
    quarantine = Quarantine()
    assert not quarantine.packet(key=False, pts=1)
    assert quarantine.packet(key=True, pts=2)
    assert quarantine.packet(key=False, pts=1)
    assert quarantine.judge(2, corrupt=False) == "whole"
    assert quarantine.judge(1, corrupt=False) == "drop"  # it leads to the key frame from before it


def test_damage_lasts_until_the_next_key_frame():
    quarantine = Quarantine()
    quarantine.packet(key=True, pts=0)
    quarantine.packet(key=False, pts=1)
    quarantine.trouble()
    assert quarantine.judge(1, corrupt=False) == "damaged"
    quarantine.packet(key=False, pts=2)
    assert quarantine.judge(2, corrupt=False) == "damaged"
    quarantine.packet(key=True, pts=4)
    assert quarantine.judge(3, corrupt=False) == "damaged"  # shown before the key frame
    assert quarantine.judge(4, corrupt=False) == "whole"


def test_a_corrupt_key_frame_ends_no_damage():
    quarantine = Quarantine()
    quarantine.packet(key=True, pts=0)
    assert quarantine.judge(0, corrupt=True) == "damaged"
    quarantine.packet(key=False, pts=1)
    assert quarantine.judge(1, corrupt=False) == "damaged"


def test_a_stream_without_key_frames_plays_but_is_never_whole():
    quarantine = Quarantine()
    assert not quarantine.packet(key=False, pts=0)
    quarantine.join_anyhow()
    assert quarantine.packet(key=False, pts=1)
    assert quarantine.judge(1, corrupt=False) == "damaged"


@pytest.mark.parametrize("fps", [0.2, 1, 25])
def test_the_rate_of_a_source_is_measured_once_a_few_packets_have_come(fps):
    arrivals = Arrivals()
    for number in range(40):
        assert (arrivals.period_s() is None) == (number < 4)
        arrivals.note(100 + number / fps)
    assert arrivals.period_s() == pytest.approx(1 / fps)
