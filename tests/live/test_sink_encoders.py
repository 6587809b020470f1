"""Tests which encoder is chosen and why, and that a failing one harms nothing else."""

import os
from fractions import Fraction

import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.runtime.media import formats
from streamdiffvsr.runtime.media.encoder_trial_child import why_not
from streamdiffvsr.runtime.media.encoders import HARDWARE, SOFTWARE, live_options
from streamdiffvsr.runtime.media.formats import live_candidate, live_encoder
from streamdiffvsr.tests.live.receivers import children, feed, look, output

SIZE = (180, 320)
CHIPS, X264 = HARDWARE["h264"], SOFTWARE["h264"]


def attempt(name: str) -> str:
    return why_not(live_candidate(name, SIZE), SIZE)


@pytest.fixture(autouse=True)
def _no_answers_yet(monkeypatch):
    monkeypatch.setattr(formats, "_answers", {})


def test_the_choice_has_encoded_a_frame_and_says_why_it_is_no_other():
    choice = live_encoder(SIZE)
    assert attempt(choice.name) == ""
    refused = [name for name in CHIPS if name in choice.why]
    assert choice.name == X264 or choice.name not in refused
    if choice.name == X264:
        assert refused == list(CHIPS)
    assert len(choice.why.splitlines()) <= 1
    assert children() == []


def test_an_encoder_that_is_not_in_libav_is_refused():
    assert why_not({"encoder": "h264_of_nobody"}, SIZE) == "not in this build of libav"


def test_the_answer_is_asked_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(formats, "_ask", lambda size: asked.append(size) or "it")
    assert [live_encoder(SIZE) for _ in range(3)] == ["it"] * 3
    live_encoder((360, 640))
    assert asked == [SIZE, (360, 640)]


def test_a_driver_that_crashes_is_left_out_and_the_others_are_asked(monkeypatch):
    class Crashing:
        """Works for the third, crashes on the second."""

        def __init__(self, task, arguments, **_):
            self.names = iter([one["encoder"] for one in arguments["candidates"]])

        def receive(self):
            name = next(self.names)
            if name == CHIPS[1]:
                raise StreamDiffVSRError("it failed", "its process ended (killed by signal 11)")
            why = "no chip" if name == CHIPS[0] else ""
            return {"why": why}, b""

        def close(self):
            pass

    monkeypatch.setattr(formats, "Child", Crashing)
    choice = live_encoder(SIZE)
    assert choice.name == CHIPS[2]
    crashed = "its process ended (killed by signal 11)"
    assert choice.why == f"{CHIPS[0]}: no chip; {CHIPS[1]}: {crashed}"


def test_a_chip_that_takes_no_further_stream_is_replaced_by_x264(tmp_path):
    missing = next((name for name in CHIPS if attempt(name)), None)
    if missing is None:
        pytest.skip("every encoder works on this machine")
    sink = open_sink(str(tmp_path / "out.mkv"), encoder=missing)
    feed(sink, [output(index) for index in range(3)])
    assert sink.status()["encoder"] == X264
    sink.close(10)
    assert look(tmp_path / "out.mkv").numbers == [0, 1, 2]


def test_rates_are_bounded_by_the_size_of_the_picture():
    for name in (X264, *CHIPS):
        small, large = (
            int(live_options(name, size, Fraction(30), 23)["maxrate"])
            for size in [(180, 320), (2160, 3840)]
        )
        assert small >= 1_000_000
        assert 20_000_000 < large < 100_000_000


@pytest.mark.skipif("STREAMDIFFVSR_TEST_ENCODER" not in os.environ, reason="names a chip to test")
def test_the_encoder_of_this_machine_makes_a_playable_file(tmp_path):
    name = os.environ["STREAMDIFFVSR_TEST_ENCODER"]
    sink = open_sink(str(tmp_path / "out.mkv"), encoder=name)
    feed(sink, [output(index, (720, 1280)) for index in range(90)])
    assert sink.status()["encoder"] == name
    sink.close(10)
    seen = look(tmp_path / "out.mkv")
    assert seen.numbers == list(range(90))
    assert [index for index, key in enumerate(seen.keys) if key] == [0, 60]
