"""A media child can hang, crash, be killed or be orphaned; each costs one clear line at most."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import streamdiffvsr
from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.encoders import h264_format
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.runtime.processes.child import Child
from streamdiffvsr.tests.media.clips import NTSC, Clip, moving

ROOT = Path(streamdiffvsr.__file__).resolve().parent

posix = pytest.mark.skipif(sys.platform == "win32", reason="named pipes and signals of POSIX")

# Makes the package importable by its path alone, as ComfyUI does, under any folder name.
BY_PATH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "streamdiffvsr", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["streamdiffvsr"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def run(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", BY_PATH + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
    )


@posix
@pytest.mark.parametrize("opener", [probe, FileSource])
def test_a_pipe_nobody_writes_to_is_cut_by_the_deadline(tmp_path, opener):
    fifo = tmp_path / "pipe.mp4"
    os.mkfifo(fifo)
    started = time.monotonic()
    with pytest.raises(StreamDiffVSRError) as caught:
        opener(fifo, deadline_s=0.7)
    assert 0.7 <= time.monotonic() - started < 3
    assert str(caught.value) == (
        f"could not read {str(fifo)!r}: no answer within 0.7 s; "
        "check that the disk, network share or pipe it is on responds"
    )
    assert children() == []


@pytest.mark.slow
@posix
def test_an_encoder_that_stands_still_is_cut_by_the_deadline(tmp_path):
    writer = SegmentWriter(
        tmp_path,
        size=(480, 640),
        like=None,
        format=h264_format(tmp_path / "out.mp4"),
        time_base=NTSC,
        deadline_s=4,
    )
    writer.begin("out")
    (encoder,) = children()
    encoder.suspend()
    with pytest.raises(StreamDiffVSRError, match="no answer within 4 s"):
        for index in range(100):
            writer.write(moving(index, 480, 640), index)
    assert children() == []
    assert list(tmp_path.iterdir()) == []


def test_the_time_between_two_calls_is_nobodys_deadline(tmp_path):
    clip = Clip(pts=[i * 1001 for i in range(3)]).write(tmp_path / "clip.mp4")
    with FileSource(clip, deadline_s=20) as source:
        next(source)
        watchdog = source._child._watchdog
        assert watchdog._due is None  # a slow model does not make the reader late
        assert len(list(source)) == 2


def test_a_killed_reader_is_one_clear_line(tmp_path):
    clip = Clip(size=(480, 640), pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4")
    with FileSource(clip) as source:
        next(source)
        (reader,) = children()
        reader.kill()
        with pytest.raises(StreamDiffVSRError) as caught:
            list(source)
    line = str(caught.value)
    assert line.startswith(f"could not read {str(clip)!r}: its process ended unexpectedly (")
    assert "\n" not in line


def test_what_a_child_says_as_it_dies_is_passed_on():
    with pytest.raises(StreamDiffVSRError) as caught:
        Child("nothing_of_this_name", {}, failure="could not try").receive()
    assert str(caught.value) == (
        "could not try: ModuleNotFoundError: No module named 'streamdiffvsr.nothing_of_this_name'"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only there is the address space limited")
def test_a_file_that_wants_more_memory_than_allowed_ends_the_child_only(tmp_path):
    clip = Clip(size=(4096, 4096), codec="ffv1", pts=[0], options={}).write(tmp_path / "big.mkv")
    arguments = {"path": str(clip), "shown": "big.mkv", "frames": True}
    child = Child(
        "runtime.media.reader_child",
        arguments,
        failure="could not read it",
        memory_bytes=150 << 20,
    )
    with pytest.raises(StreamDiffVSRError, match=r"allocate memory|more memory"):
        child.receive()
    child = Child(
        "runtime.media.reader_child",
        arguments,
        failure="could not read it",
        memory_bytes=2 << 30,
    )
    kinds = iter(lambda: child.receive()[0]["kind"], None)
    assert next(kind for kind in kinds if kind != "beat") == "info"  # a slow start is not silent
    child.close()


ORPHANS = """
import sys
from pathlib import Path
from streamdiffvsr.runtime.media.reader import start_reader
from streamdiffvsr.runtime.media.encoders import h264_format
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.runtime.media.writer import SegmentWriter
opening = start_reader("pipe.mp4", deadline_s=60, frames=True)
sending = FileSource("clip.mp4")
format = h264_format(Path("out.mp4"))
waiting = SegmentWriter(".", size=(48, 64), like=sending.info, format=format)
waiting.begin("out")
print(opening.pid, sending._child.pid, waiting._child.pid, flush=True)
sys.stdin.read()
"""


@posix
def test_children_die_with_a_parent_that_is_killed(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    Clip(size=(480, 640), pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4")
    parent = subprocess.Popen(
        [sys.executable, "-I", "-c", BY_PATH + ORPHANS, str(ROOT)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    orphans = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert [orphan.is_running() for orphan in orphans] == [True] * 3
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs(orphans, timeout=10)
    assert (len(gone), alive) == (3, [])
    assert {path.name for path in tmp_path.iterdir()} == {"pipe.mp4", "clip.mp4"}  # no part left


def test_a_source_that_is_only_dropped_ends_its_child_too(tmp_path):
    clip = Clip(size=(480, 640), pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4")
    for _ in FileSource(clip):
        reader = children()
        break
    gc.collect()
    assert len(reader) == 1
    assert psutil.wait_procs(reader, timeout=10)[1] == []


def test_the_package_is_found_by_its_path_alone(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    link = tmp_path / "my node.1"
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    # A main module without a guard: importing it again, as multiprocessing would, prints twice.
    # The child must not import a module called av next to it.
    (tmp_path / "av.py").write_text("raise RuntimeError('the wrong av')")
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')")
    done = run(
        "print('main')\n"
        "from streamdiffvsr.runtime.media.reader import probe\n"
        "print(probe('clip.mp4').frames)",
        link,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("main\n12\n", "")
    assert clip.exists()


@posix
def test_ctrl_c_reaches_the_parent_only(tmp_path):
    clip = Clip(size=(480, 640), pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4")
    with FileSource(clip) as source:
        next(source)
        (reader,) = children()
        assert os.getpgid(reader.pid) != os.getpgid(0)  # the terminal signals our group
        reader.send_signal(signal.SIGINT)  # and were it in the group, it would not care
        assert len(list(source)) == 29


def test_closing_from_another_thread_ends_a_wait(tmp_path):
    clip = Clip(size=(480, 640), pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4")
    source = FileSource(clip)
    (reader,) = children()
    next(source)
    reader.suspend() if sys.platform != "win32" else None
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(frame.index for frame in source))
    thread.start()
    source.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert children() == []
