"""Long files: memory does not grow, and sound stays with the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import streamdiffvsr
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.files.films import film
from streamdiffvsr.tests.media.clips import Clip, see

pytestmark = pytest.mark.slow

CHILD = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.tests.files.doubles import Remembering
tell = lambda done, total: print(done, flush=True) if done % 20 == 0 else None
options = FileOptions(preset="ultrafast")
upscale_file(sys.argv[2], sys.argv[3], Remembering(), options, progress=tell)
"""


def resident_mb(process: psutil.Process) -> float:
    """Returns the resident size of the process and of those it started."""
    found = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in found) / 2**20


def test_memory_does_not_grow_over_two_thousand_frames(tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 2400, range(90, 2400, 90))
    path = json.dumps([str(Path(streamdiffvsr.__file__).parent / ".links"), *sys.path])
    command = [sys.executable, "-c", CHILD, path, str(source), str(tmp_path / "out.mp4")]
    counts, held = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watched = psutil.Process(process.pid)
        for line in process.stdout:
            counts.append(int(line))
            held.append(resident_mb(watched))
    assert process.returncode == 0
    # Behind the first 400 frames, in which buffers and lookahead fill.
    kept = np.array(counts) > 400
    slope = 1000 * np.polyfit(np.array(counts)[kept], np.array(held)[kept], 1)[0]
    assert np.ptp(np.array(counts)[kept]) >= 1900
    assert slope < 1.0, held


def test_sound_and_picture_stay_together_over_ten_minutes(tmp_path: Path) -> None:
    steps = np.random.default_rng(1).integers(3, 21, 6000) * 250  # no two alike
    pts = [0, *np.cumsum(steps)[:-1].tolist()]
    scale = 600 * 30000 / (pts[-1] + 1001)
    pts = [round(scale * at) for at in pts]
    clip = Clip(pts=pts, sounds=[("aac", 48000)], options={"preset": "ultrafast", "bf": "2"})
    source = clip.write(tmp_path / "in.mp4")
    output = tmp_path / "out.mp4"
    report = upscale_file(source, output, Nearest(), FileOptions(preset="ultrafast"))
    before, after = see(source), see(output)
    assert report.retimed == 0
    assert after.times == before.times
    assert before.times[-1] > 599
    assert after.sounds == before.sounds  # times and bytes of every packet
    last_step = before.times[-1] - before.times[-2]
    assert abs(after.length - before.length) <= last_step
