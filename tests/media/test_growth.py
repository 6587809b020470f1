"""Files read and written one after another leave nothing behind, and frames do not pile up."""

import shutil
import sys
import threading

import psutil
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.media.clips import Clip, moving
from streamdiffvsr.tests.media.copying import video


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_nothing_grows_with_the_number_of_files(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    process = psutil.Process()
    handles = process.num_handles if sys.platform == "win32" else process.num_fds
    kept: list[object] = []  # closed is closed, whether or not it is collected

    def one_round() -> None:
        with FileSource(clip) as source:
            next(source)
        with pytest.raises(StreamDiffVSRError):
            probe(tmp_path / "gone.mp4")
        with video(tmp_path / "out.mp4", (48, 64), like=source.info) as writer:
            writer.write(moving(0, 48, 64), 0)
        kept.extend([source, writer])
        (tmp_path / "out.mp4").unlink()
        shutil.rmtree(tmp_path / "out.mp4.parts")

    one_round()
    before = handles(), threading.active_count()
    for _ in range(3):
        one_round()
    assert handles() == before[0]
    assert children() == []
    for thread in threading.enumerate():  # told to end, and given the time to
        if thread.name == "media-watchdog":
            thread.join(timeout=10)
    assert threading.active_count() <= before[1]


def test_frames_do_not_pile_up_in_memory(tmp_path):
    clip = Clip(size=(480, 640), pts=[i * 1001 for i in range(60)]).write(tmp_path / "clip.mp4")
    process = psutil.Process()
    with FileSource(clip) as source:
        next(source)
        (reader,) = children()
        before = process.memory_info().rss, reader.memory_info().rss
        for frame in source:
            most = process.memory_info().rss, reader.memory_info().rss
            size = frame.image.nbytes
            # 60 frames are 55 MB; a few of them are in flight or kept by the allocators.
            assert most[0] - before[0] < 12 * size
            assert most[1] - before[1] < 24 * size
