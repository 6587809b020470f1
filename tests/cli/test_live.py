"""`streamdiffvsr live`: from a source to sinks, its end, and what becomes of bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest

from streamdiffvsr.building.provider import EngineProvider
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.cli.live import cheaper_sets, opener
from streamdiffvsr.cli.live_preview import PREVIEW, with_preview_at
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.sounding import beeping
from streamdiffvsr.tests.live.streams import silent, tcp

SOURCE = "testsrc=64x48@10"


def seconds_of(path: Path) -> list[float]:
    """Returns the time at which each frame of a file is shown, in seconds."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def test_a_source_goes_to_every_sink(cli: Cli, parity_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    ran = cli(
        *("live", SOURCE, "--engines", parity_engines, "--to", out, "--to", "null"),
        *("--max-seconds", 60, "--max-frames", 8),
    )
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    end = events[-1]
    assert (end["event"], end["reason"], end["frames"]) == ("end", "frames", 8)
    assert end["size"] == "64x48" and end["source"]["state"] == "ended"
    assert [sink["state"] for sink in end["sinks"]] == ["closed", "closed"]
    times = seconds_of(out)
    assert 1 <= len(times) <= 8 and times == sorted(set(times))
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (256, 192)


def test_engines_of_another_size_leave_bicubic_and_say_so(
    cli: Cli, parity_engines: Path, tmp_path: Path
) -> None:
    ran = cli(
        *("live", "testsrc=96x64@30", "--engines", parity_engines, "--to", "null"),
        *("--max-frames", 30, "--json"),
    )
    assert ran.code == 0
    last = json.loads(ran.out.splitlines()[-1])
    assert last["passed_through"] == 30
    assert "those of --engines are made for 64x48" in last["note"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to send")
def test_a_signal_ends_it_in_time_with_whole_files(parity_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamdiffvsr.cli", "live", SOURCE),
            *("--engines", str(parity_engines), "--to", str(out), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        event = json.loads(line)
        written = event.get("sinks", [{"written": 0}])[0]["written"]
        if written >= 3:
            break
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    rest = process.stdout.read()
    assert process.wait(30) == 0
    assert time.monotonic() - started < 8  # five seconds, and the interpreter's own end
    assert json.loads(rest.splitlines()[-1])["reason"] == "stopped"
    assert len(seconds_of(out)) >= written


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_a_signal_during_a_build_leaves_nothing_of_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamdiffvsr.cli", "live", SOURCE, "--to", "null", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STREAMDIFFVSR_CACHE": str(tmp_path)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        building = json.loads(line).get("building")
        if building and list(tmp_path.glob("engines/.*.building-*")):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(30) == 0
    assert json.loads(rest.splitlines()[-1])["reason"] == "stopped"
    assert [path.suffix for path in (tmp_path / "engines").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["gopher://host/x"], 2, "gopher"),
        (["no-such-file.mp4"], 1, "there is no such file"),
        ([SOURCE, "--to", "out.xyz"], 2, ".xyz"),
        ([SOURCE, "--to", "no-such-folder/out.mkv"], 1, "no folder"),
        ([SOURCE, "--option", "nonsense"], 2, "NAME=VALUE"),
        ([SOURCE, "--option", "no_such_option=1"], 2, "no_such_option"),
        ([SOURCE, "--preview", "0.0.0.0:0"], 2, "--token"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("live", *arguments, "--max-seconds", 20)
    assert told in ran.err.splitlines()[-1], ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.code == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["busy", "no such host", "no token"])
def test_a_preview_that_cannot_be_is_refused_before_the_source_is_opened(
    cli: Cli, wrong: str, tmp_path: Path
) -> None:
    with tcp(silent) as camera, socket.create_server(("127.0.0.1", 0)) as taken:
        place = {
            "busy": f"127.0.0.1:{taken.getsockname()[1]}",
            "no such host": "no-such-host.invalid:0",
            "no token": "0.0.0.0:0",
        }[wrong]
        ran = cli("live", f"tcp://127.0.0.1:{camera.port}", "--preview", place, "--to", "null")
        assert "could not open the preview" in ran.error
        assert ran.code == (2 if wrong == "no token" else 1)
        assert camera.accepted == 0


def test_what_a_build_is_at_is_told_without_its_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at: list[str] = []
    told: list[str] = []
    reasons = [
        f"building {tmp_path} (the engines of {tmp_path} are not trusted: on purpose)",
        f"exporting again: {tmp_path} is damaged",
    ]

    def build(request: BuildRequest, size: object, **options: Any) -> Path:
        for line in (
            f"building {tmp_path} (new)",
            *reasons,
            "make the graphs of 64x48",
            "export flow",
            "compile flow",
        ):
            options["progress"](line)
        raise StreamDiffVSRError("it cannot be built", "on purpose")

    monkeypatch.setattr("streamdiffvsr.building.provider.build_set", build)
    provider = EngineProvider(BuildRequest(precision="fp32", device="cpu"))
    with pytest.raises(StreamDiffVSRError, match="on purpose"):
        opener(None, provider, 0, None, told.append)((96, 128), at.append)
    assert at == ["make the graphs of 64x48", "export flow", "compile flow"]
    assert told == reasons


def test_the_engines_of_a_stream_are_opened_on_the_device(
    parity_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def load(folder: Path, device: str | None, size: tuple[int, int]) -> StandIn:
        assert size == (48, 64)
        seen.append(device)
        return StandIn()

    monkeypatch.setattr("streamdiffvsr.runtime.upscaler.load", load)
    for device in ("auto", "cuda:1"):
        provider = EngineProvider(BuildRequest(device=device))
        open_levels = opener(parity_engines, provider, 0, None)
        seen.append(open_levels((48, 64), print).device)
    assert seen == [None, "cpu", "cuda:1", "cuda:1"]


class StandIn:
    """In place of an `Upscaler` and its `Session`."""

    def session(self) -> StandIn:
        return self


def test_flags_show_no_type(cli: Cli) -> None:
    lines = cli("live", "--help").out.splitlines()
    flags = [line for line in lines if "--no-reconnect" in line or "--overwrite" in line]
    assert len(flags) == 2 and not any("bool" in flag.lower() for flag in flags)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("live testsrc --preview", f"live testsrc --preview {PREVIEW}"),
        ("live --preview testsrc", f"live --preview {PREVIEW} testsrc"),
        ("live --preview webcam:0", f"live --preview {PREVIEW} webcam:0"),
        ("live --preview rtsp://h:8554/s", f"live --preview {PREVIEW} rtsp://h:8554/s"),
        ("live x --preview --json", f"live x --preview {PREVIEW} --json"),
        ("live x --preview :9000", "live x --preview :9000"),
        ("live x --preview 0.0.0.0:9000 --json", "live x --preview 0.0.0.0:9000 --json"),
        ("upscale a b", "upscale a b"),
    ],
)
def test_preview_may_stand_without_a_place(typed: str, meant: str) -> None:
    assert with_preview_at(typed.split()) == meant.split()


def test_the_rungs_are_the_sets_that_were_built_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarser flow and fewer steps, best first, and nothing is built for them."""
    asked: list[BuildRequest] = []

    def find(request: BuildRequest, size: object) -> Path | None:
        assert size == (96, 128)
        asked.append(request)
        return None if request.flow_scale == 4 else Path(f"set-{len(asked)}")

    monkeypatch.setattr("streamdiffvsr.building.provider.find_set", find)
    request = BuildRequest(backend="onnxruntime", precision="fp32", device="cpu")
    found = cheaper_sets(EngineProvider(request), (96, 128))
    assert list(found) == ["flow 1/2", "2 steps"]
    assert [(a.flow_scale, a.steps) for a in asked] == [(2, 4), (4, 4), (None, 2)]
    assert all(a.precision == "fp32" for a in asked)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
def test_the_sound_of_a_source_is_kept_unless_it_is_not_wanted(
    cli: Cli, parity_engines: Path, tmp_path: Path, wanted: bool
) -> None:
    clip, out = tmp_path / "clip.ts", tmp_path / "out.mp4"
    clip.write_bytes(beeping(2, "mpegts"))
    flags = () if wanted else ("--no-audio",)
    ran = cli("live", clip, "--engines", parity_engines, "--to", out, "--to", "null", *flags)
    assert ran.code == 0, ran.err
    end = json.loads(ran.out.splitlines()[-1])
    assert [one["codec"] for one in end["source"]["sound"]] == ["aac"] * wanted
    assert [one["how"] for one in end["sinks"][0]["sound"]] == ["copied"] * wanted
    assert (end["sinks"][0]["sound_written"] > 80) == wanted
    with av.open(str(out)) as container:
        assert len(container.streams.audio) == wanted
