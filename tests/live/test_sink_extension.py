"""A kind of sink that is added from outside the package gets the frames of a live run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live import sink_targets
from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.sink_targets import SINKS, SinkKind, Target
from streamdiffvsr.runtime.live.sinks import LOCAL, EncodedSink, LastingError, open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.receivers import children, output, wait_until


class Recorder:
    """Keeps frames; fails where a test has it fail."""

    def __init__(self) -> None:
        self.frames: list[OutputFrame] = []
        self.opened: list[str] = []
        self.closed = 0
        self.failures: list[Exception] = []
        self.slow_s = 0.0

    def open(self, target: Target) -> Recorder:
        self.opened.append(target.where)
        return self

    def write(self, frame: OutputFrame) -> None:
        time.sleep(self.slow_s)
        if self.failures:
            raise self.failures.pop()
        self.frames.append(frame)

    def close(self) -> None:
        self.closed += 1


def parse(text: str, overwrite: bool) -> Target | None:
    name = text.removeprefix("dummy:")
    return None if name == text else Target("dummy", name, "", text)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    it = Recorder()
    monkeypatch.setattr(sink_targets, "SINKS", dict(SINKS))
    sink_targets.register(SinkKind("dummy", parse, "dummy:NAME", open=it.open))
    yield it
    assert children() == []


def test_it_gets_the_frames_of_a_live_run(
    cli: Cli, parity_engines: Path, recorder: Recorder
) -> None:
    ran = cli(
        *("live", "testsrc=64x48@10", "--engines", parity_engines, "--to", "dummy:here"),
        *("--max-seconds", 60, "--max-frames", 12, "--json"),
    )
    assert ran.code == 0, ran.err
    (sink,) = json.loads(ran.out.splitlines()[-1])["sinks"]
    assert (sink["name"], sink["state"], sink["error"]) == ("dummy:here", "closed", "")
    assert recorder.opened == ["here"] and recorder.closed == 1
    assert 1 <= sink["written"] == len(recorder.frames) <= 12
    assert {frame.image.shape for frame in recorder.frames} == {(192, 256, 3)}
    times = [frame.source.seconds for frame in recorder.frames]
    assert times == sorted(set(times))
    assert any(frame.rung == "full" for frame in recorder.frames)


def test_messages_name_it(recorder: Recorder) -> None:
    with pytest.raises(UsageError, match=r"null, or dummy:NAME$"):
        open_sink("out.xyz")
    assert sink_targets.accepted(short=True).endswith("null, or dummy:NAME")


def test_it_is_opened_again_after_an_error(recorder: Recorder) -> None:
    told: list[str] = []
    recorder.failures = [OSError("no carrier")]
    sink = EncodedSink(parse("dummy:a", False), tell=told.append, backoff=Backoff(0.01, 0.01))
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "retrying")
    sink.offer(output(1))
    wait_until(lambda: sink.status()["written"] == 1)
    assert recorder.opened == ["a", "a"] and sink.status()["reopened"] == 1
    sink.close(5)
    assert recorder.closed == 2
    assert "could not write 'dummy:a': OSError: no carrier; trying again" in told[0]


def test_it_gives_up_where_its_error_lasts(recorder: Recorder) -> None:
    recorder.failures = [LastingError("it cannot be sent", "the licence has ended")]
    sink = open_sink("dummy:a")
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "failed")
    assert sink.status()["error"] == "the licence has ended"
    assert recorder.closed == 1


@pytest.mark.slow
def test_a_write_that_blocks_does_not_hold_up_the_end(recorder: Recorder) -> None:
    recorder.slow_s = 3.0
    sink = open_sink("dummy:a")
    sink.offer(output(0))
    wait_until(lambda: recorder.opened)
    started = time.monotonic()
    sink.close(0.5)
    assert time.monotonic() - started < 2 < LOCAL.frame_s
    wait_until(lambda: recorder.closed)  # once the write has come back


def test_what_cannot_be_opened_is_told(recorder: Recorder) -> None:
    def refuse(target: Target) -> Recorder:
        raise StreamDiffVSRError(target.failure, "it is busy")

    sink_targets.register(SinkKind("dummy", parse, "dummy:NAME", open=refuse))
    sink = open_sink("dummy:a")
    sink.offer(output(0))
    wait_until(lambda: sink.status()["error"] == "it is busy")
    sink.close(1)


PLUGIN = """
from pathlib import Path
from streamdiffvsr.runtime.live.sink_targets import SinkKind, Target

class Shapes:
    def __init__(self, target):
        self.file = Path(target.where).open("w")
    def write(self, frame):
        print(*frame.image.shape, file=self.file)
    def close(self):
        self.file.close()

def parse(text, overwrite):
    return Target("shapes", text[7:], "", text) if text.startswith("shapes:") else None

KIND = SinkKind("shapes", parse, "shapes:FILE", open=Shapes)
"""


def test_an_installed_package_adds_it_to_the_command_line(
    parity_engines: Path, tmp_path: Path
) -> None:
    (tmp_path / "shapes_sink.py").write_text(PLUGIN)
    about = tmp_path / "shapes_sink-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-sink\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[streamdiffvsr_sinks]\nshapes = shapes_sink:KIND\n")
    start = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from streamdiffvsr.cli.app import main; sys.exit(main())"
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-c", start, "live", "testsrc=64x48@10", "--max-frames", "3"),
            *("--engines", parity_engines, "--to", f"shapes:{tmp_path / 'out.txt'}"),
        ],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert set((tmp_path / "out.txt").read_text().splitlines()) == {"192 256 3"}
