"""Any command can be a baseline: its time per frame is measured apart from its start-up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamdiffvsr.benchmarks.baselines import measure_command, split_command
from streamdiffvsr.errors import StreamDiffVSRError, UsageError

SIZE = (48, 64)
SLOW = """
import sys, time, shutil, av
time.sleep(0.4)
for _ in av.open(sys.argv[1]).decode(video=0):
    time.sleep(0.06)  # so long that other work on the machine hardly counts
shutil.copy(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_frame_and_the_start_are_told_apart(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), "{input}", "{output}"]
    told = measure_command(command, SIZE, "ours", 10.0)
    assert 54 < told["frame_ms"]["p50"] < 120
    assert told["start_up_s"] > 0.3
    assert told["ratio"] == pytest.approx(told["frame_ms"]["p50"] / 10, rel=0.01)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ffmpeg -i {input} out.mp4", "{output}"),
        ("ffmpeg {output}", "{input}"),
        ("'ffmpeg {input} {output}", "No closing quotation"),
    ],
)
def test_a_command_without_its_places_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("{", r"\{")):
        split_command(text)


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('no such model')")
    with pytest.raises(StreamDiffVSRError, match="failed with 1: no such model"):
        measure_command([sys.executable, str(script), "{input}", "{output}"], SIZE, "ours", 1.0)
    with pytest.raises(StreamDiffVSRError, match="did not run"):
        measure_command(["no-such-program", "{input}", "{output}"], SIZE, "ours", 1.0)
    nothing = [sys.executable, "-c", "pass", "{input}", "{output}"]
    with pytest.raises(StreamDiffVSRError, match="it wrote no output"):
        measure_command(nothing, SIZE, "ours", 1.0)
