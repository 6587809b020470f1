"""The memory that a whole command takes is the estimate shown before."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from streamdiffvsr.tests.files.films import film


def resident(process: psutil.Process) -> int:
    """Bytes of a process and all below it; one that is just being forked has none of its own."""
    total, command = process.memory_info().rss, process.cmdline()
    for one in process.children(recursive=True):
        try:
            total += 0 if one.cmdline() == command else one.memory_info().rss
        except psutil.Error:
            continue
    return total


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_the_peak_is_within_a_tenth_of_what_was_told(tmp_path, parity_engines):
    clip = film(tmp_path / "in.mp4", 160, [])  # past what the encoder looks ahead, and a segment
    command = [sys.executable, "-m", "streamdiffvsr.cli", "upscale", clip, tmp_path / "out.mp4"]
    command += ["--engines", parity_engines, "--json"]
    running = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
    process, peak = psutil.Process(running.pid), 0
    while running.poll() is None:
        try:
            peak = max(peak, resident(process))
        except psutil.Error:
            break
        time.sleep(0.02)  # between two looks
    told = json.loads(running.communicate()[0].splitlines()[-1])
    assert peak == pytest.approx(told["plan"]["memory_bytes"], rel=0.1)
