"""Tests when frames are shown: by the file's times, which go on where its clock jumps back."""

from streamdiffvsr.runtime.files.checkpoint import LONGEST, SHORTEST, Segmenter, Times


def placed(pairs: list[tuple[int, int | None]]) -> list[int]:
    times, shown = Times(), []
    for pts, duration in pairs:
        times = times.after(pts, duration)
        assert times.last is not None
        shown.append(times.last)
    return shown


def test_times_are_carried_with_gaps_and_starts() -> None:
    pts = [-1001, 0, 1001, 90000, 90001, 90001]
    assert placed([(p, 1001) for p in pts]) == pts  # equal ones are the writer's to move


def test_a_clock_that_jumps_back_goes_on_a_frame_later() -> None:
    assert placed([(500, 40), (540, 40), (0, 40), (40, 40), (20, 40)]) == [500, 540, 580, 620, 660]


def test_a_frame_that_is_early_moves_no_other_one() -> None:
    regular = [40 * i for i in range(20)]
    for wrong in (0, 100, 160, -100_000):
        pts = [*regular[:6], wrong, *regular[7:]]
        assert placed([(p, 40) for p in pts]) == regular
        assert placed([(p, None) for p in pts]) == regular


def test_times_that_are_mixed_up_do_not_push_what_follows() -> None:
    mixed = [0, 80, 120, 40, 200, 240, 160, 320, 360, 280, 400, 440]
    shown = placed([(p, 40) for p in mixed])
    assert shown[-1] == 440 and shown == sorted(shown)
    assert all(at - p <= 121 for at, p in zip(shown, mixed, strict=True))


def test_frames_that_are_moved_are_counted() -> None:
    times = Times()
    for pts in (0, 40, 20, 120, 160, 160, 200):
        times = times.after(pts, 40)
    assert times.retimed == 1
    for pts in (5, 45, 85):  # a jump is one
        times = times.after(pts, 40)
    assert (times.retimed, times.last) == (2, 320)


def test_without_durations_the_last_step_is_taken() -> None:
    assert placed([(0, None), (40, None), (0, None), (50, None)]) == [0, 40, 80, 130]


def begins(cuts: set[int], frames: int, offset: int = 0) -> list[int]:
    segmenter = Segmenter()
    return [f + offset for f in range(frames) if segmenter.starts_segment(f + offset in cuts)]


def test_segments_begin_at_cuts_and_do_not_grow_long() -> None:
    assert begins({30, 40, 100}, 400) == [0, 30, 100, 100 + LONGEST, 100 + 2 * LONGEST]
    assert begins({SHORTEST - 1, SHORTEST}, 60) == [0, SHORTEST]


def test_a_run_that_begins_at_a_segments_cut_has_the_same_segments() -> None:
    cuts = {30, 41, 100, 260, 300, 301}
    whole = begins(cuts, 500)
    for first in (30, 100, 260):
        assert first in whole
        assert begins(cuts, 500 - first, first) == [at for at in whole if at >= first]
