"""Where sound is placed: by the clock of its frames, over jumps and reconnections, never back."""

import time

import pytest

from streamdiffvsr.runtime.live.sound import (
    SoundMessage,
    SoundPacket,
    SoundStreams,
    SoundTimeline,
)


class Source:
    """What a source's process says, and what comes of it."""

    def __init__(self, **options: bool) -> None:
        self.heard: list[SoundPacket] = []
        self.announced: list[SoundStreams] = []
        self.told: list[str] = []
        self.timeline = SoundTimeline(self._hear, self.told.append, **options)
        self.began = time.monotonic()

    def _hear(self, sound):
        (self.announced if isinstance(sound, SoundStreams) else self.heard).append(sound)

    def opens(self, *codecs: str) -> None:
        self.timeline.restart()
        self._say({"kind": "sounds", "count": len(codecs)})
        for number, codec in enumerate(codecs):
            about = {"codec": codec, "rate": 8000, "channels": 1, "identity": codec}
            self._say({"kind": "sound_stream", "number": number, **about})

    def sounds(self, own: float | None, at: float, number: int = 0) -> None:
        """A packet of that time by its clock comes, so many seconds after the beginning."""
        times = {"own": own, "duration": 0.02, "captured": self.began + at}
        self._say({"kind": "sound", "number": number, **times})

    def shows(self, own: float | None, placed: float, at: float) -> None:
        self.timeline.frame(own, placed, self.began + at)

    def _say(self, header) -> None:
        self.timeline.take(SoundMessage(header, b"template"))

    @property
    def seconds(self) -> list[float]:
        return [packet.seconds for packet in self.heard]


@pytest.fixture
def source():
    made = Source()
    made.opens("pcm_mulaw")
    return made


def test_sound_before_the_first_frame_waits_for_it(source):
    source.sounds(99.9, at=0.0)
    source.sounds(100.1, at=0.2)
    assert source.seconds == []
    source.shows(100.0, 0.0, at=0.25)
    assert source.seconds == pytest.approx([-0.1, 0.1])
    source.sounds(100.3, at=0.4)
    assert source.seconds[-1] == pytest.approx(0.3)


def test_sound_after_a_jump_of_the_clock_waits_for_a_frame_of_the_new_time(source):
    source.shows(100.0, 0.0, at=0.0)
    source.sounds(100.1, at=0.1)
    source.sounds(5.2, at=0.2)
    source.sounds(5.3, at=0.3)
    assert source.seconds == pytest.approx([0.1])
    source.shows(5.25, 0.25, at=0.25)
    assert source.seconds == pytest.approx([0.1, 0.2, 0.3])


def test_sound_with_a_clock_of_its_own_is_placed_as_it_comes(source):
    source.shows(100.0, 10.0, at=-20.0)
    source.sounds(7000.0, at=-19.0)
    source.sounds(7000.1, at=-18.8)
    assert source.seconds == pytest.approx([11.0, 11.1])  # its own steps from the first one on
    assert len(source.told) == 1 and "another clock" in source.told[0]


def test_time_that_has_passed_is_not_heard_again(source):
    source.shows(10.0, 0.0, at=0.0)
    for own in (10.0, 10.02, 10.04, 9.98, 10.02, 10.06):
        source.sounds(own, at=own - 10)
    assert source.seconds == pytest.approx([0.0, 0.02, 0.04, 0.06])


def test_a_connection_with_a_clock_of_its_own_goes_on_later(source):
    source.shows(50.0, 0.0, at=0.0)
    source.sounds(50.1, at=0.1)
    source.opens("pcm_mulaw")
    source.sounds(0.0, at=3.0)
    source.shows(0.1, 3.1, at=3.1)
    assert source.seconds == pytest.approx([0.1, 3.0])
    assert len({id(packet.stream) for packet in source.heard}) == 1  # it is the same stream


@pytest.mark.parametrize("step", [0.067, -0.05])
def test_what_came_before_the_clocks_were_matched_is_moved_to_its_place(step):
    source = Source(matched_late=True)
    source.opens("pcm_mulaw")
    source.shows(0.0, 0.0, at=0.0)
    for number in range(30):
        own = 0.02 * number
        source.sounds(own if number >= 6 else own - step, at=0.02 * number)
        source.shows(own, own, at=0.02 * number)
    assert source.seconds == pytest.approx([0.02 * number for number in range(30)])


def test_sound_without_times_is_heard_as_it_comes(source):
    source.shows(None, 1.0, at=0.0)
    source.sounds(None, at=0.5)
    assert source.seconds == pytest.approx([1.5])


def test_streams_are_announced_when_one_of_them_is_another(source):
    before = len(source.announced)
    source.opens("pcm_mulaw")
    assert source.announced[-1].streams == source.announced[before - 1].streams
    source.opens("aac", "opus")
    streams = source.announced[-1]
    assert [stream.codec for stream in streams.streams] == ["aac", "opus"]
    assert streams.expected == 2
    assert [about["codec"] for about in source.timeline.to_json()] == ["aac", "opus"]


def test_a_lost_stream_is_told_once(source):
    source._say({"kind": "sound_lost", "number": 1, "why": "no reason"})
    assert source.told == ["stream 2 of its sound is left out: no reason"]
