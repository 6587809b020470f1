"""`--mode`, `--roi` and `--refresh-s` of `live`; adaptive frames from Python and `bench live`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.benchmarks.report.files import read_result
from streamdiffvsr.building.provider import EngineProvider
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.cli.live_modes import choose_mode, parse_region
from streamdiffvsr.cli.live_status import in_one_line
from streamdiffvsr.engines import host
from streamdiffvsr.engines.registry import Choice
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.tests.cli.test_status_line import STATUS
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.tiles import textured

SOURCE = "testsrc=160x90@10"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's engines of one tile."""
    return streamdiffvsr.build("tiny", size=(48, 48), out=tmp_path_factory.mktemp("e") / "set")


def last_of(ran: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
    return found


@pytest.mark.slow
def test_adaptive_frames_come_out_at_the_sources_rate(cli: Cli, tiles: Path) -> None:
    ran = cli(
        *("live", SOURCE, "--mode", "adaptive", "--engines", tiles, "--to", "null", "--json"),
        *("--roi", "10,10,40,40", "--roi", "500,0,9,9", "--refresh-s", 3, "--max-frames", 40),
    )
    assert ran.code == 0, ran.err
    last = last_of(ran)
    assert (last["mode"], last["running"], last["rung"]) == ("adaptive", "adaptive", "adaptive")
    assert last["rungs"] == ["adaptive", "bicubic"] and last["passed_through"] < 20
    assert last["adaptive"]["regions"] == [[10, 10, 40, 40]]
    assert last["adaptive"]["tile_count"] == 12 and last["adaptive"]["tiles_per_s"] > 0
    told = [json.loads(line).get("text", "") for line in ran.out.splitlines()[:-1]]
    assert sum("500,0,9,9 is not in the frame" in line for line in told) == 1


def test_a_given_set_decides_what_auto_is(tiles: Path, parity_engines: Path) -> None:
    assert choose_mode("auto", None).mode == "auto"
    assert choose_mode("auto", tiles).mode == "adaptive"
    assert choose_mode("auto", parity_engines).mode == "exact"
    assert choose_mode("exact", tiles).mode == "exact"
    assert choose_mode("adaptive", tiles, ["1,2,3,4"], 2.0).regions == ((1, 2, 3, 4),)
    with pytest.raises(
        UsageError, match=r"these engines make whole frames; use .* \(--size 48x48\)"
    ):
        choose_mode("auto", parity_engines, ["1,2,3,4"])
    with pytest.raises(UsageError, match="64x48, and tiles are 48x48"):
        choose_mode("adaptive", parity_engines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--mode", "quick"], "use --mode auto, exact or adaptive"),
        (["--roi", "1,2,3"], "write X,Y,W,H"),
        (["--roi", "1,2,0,4"], "write X,Y,W,H"),
        (["--roi=-1,2,3,4"], "write X,Y,W,H"),
        (["--roi=-5,0,20,20"], "X and Y are 0 or more, width and height above 0"),
        (["--roi", "0,0,0,0"], "X and Y are 0 or more, width and height above 0"),
        (["--refresh-s", "0"], "0.1"),
        (["--mode", "exact", "--roi", "0,0,8,8"], "--roi has no effect in exact mode"),
        (["--mode", "exact", "--refresh-s", "4"], "--refresh-s has no effect in exact mode"),
    ],
)
def test_bad_options_are_one_line(cli: Cli, arguments: list[str], told: str) -> None:
    ran = cli("live", SOURCE, *arguments, "--max-seconds", 20, "--to", "null")
    assert ran.code == 2 and told in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_region_is_written_in_pixels() -> None:
    assert parse_region("10, 20,30,40") == (10, 20, 30, 40)


def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.find_spec
    monkeypatch.setattr(host, "find_spec", lambda name: None if name == "cv2" else real(name))


def test_without_opencv_adaptive_frames_name_the_extra(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_opencv(monkeypatch)
    ran = cli("live", SOURCE, "--mode", "adaptive", "--to", "null", "--max-seconds", 20)
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert "OpenCV is not installed" in ran.err and "pip install 'streamdiffvsr[live]'" in ran.err
    with pytest.raises(StreamDiffVSRError, match=r"pip install 'streamdiffvsr\[live\]'"):
        streamdiffvsr.adaptive("tiny", size=(90, 160))
    told: list[str] = []
    assert choose_mode("auto", None, tell=told.append).mode == "exact"
    assert len(told) == 1 and "OpenCV" in told[0]


def test_whole_frames_need_no_opencv() -> None:
    code = (
        "import sys, streamdiffvsr, streamdiffvsr.cli.live, streamdiffvsr.cli.bench\n"
        "import streamdiffvsr.runtime.live.session, streamdiffvsr.runtime.live.refiner\n"
        "import streamdiffvsr.runtime.live.preview.preview, streamdiffvsr.runtime.files.upscale\n"
        "print('cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_python_has_adaptive_frames_of_any_size() -> None:
    engines = set()
    for size in ((90, 160), (30, 200)):
        up = streamdiffvsr.adaptive("tiny", size=size, regions=[(0, 0, 20, 20)], refresh_s=5)
        state, shown = up.initial_state(seed=3), textured(*size)
        for _ in range(2):
            out, state = up.step(shown, state, tiles=2)
        assert out.shape == (4 * size[0], 4 * size[1], 3) and out.dtype == np.uint8
        assert up.refresh_s == 5 and up.engine.batch == 1
        engines.add(up.engine.identity)
    assert len(engines) == 1
    with pytest.raises(UsageError, match=r"reaches beyond the frame \(160x90\)"):
        streamdiffvsr.adaptive("tiny", size=(90, 160), regions=[(150, 0, 20, 20)])


@pytest.mark.parametrize(
    ("device", "precision", "batch"), [("cpu", "fp32", 1), ("cuda", "fp16", 4), ("cuda", "fp8", 1)]
)
def test_a_gpu_takes_four_tiles_at_once(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, batch: int
) -> None:
    asked: list[Any] = []

    def build(request: BuildRequest, size: object, **options: object) -> Path:
        asked.append((request.batch, request.flow_scale, request.profile, size))
        return Path("set")

    monkeypatch.setattr("streamdiffvsr.building.provider.build_set", build)
    chosen = Choice("onnxruntime", precision, device)
    monkeypatch.setattr(BuildRequest, "choice", lambda self: chosen)
    EngineProvider(BuildRequest(flow_scale=2)).tiles()
    assert asked == [(batch, None, None, (48, 48))]


def test_the_terminal_shows_how_much_the_model_made() -> None:
    adaptive = {"fresh": 0.784, "tiles_per_frame": 1.234}
    shown = in_one_line({**STATUS, "rung": "adaptive", "adaptive": adaptive, "note": ""})
    assert "adaptive, 78 % model, 1.2 tiles/frame" in shown


def test_eighty_columns_have_room_for_how_much_the_model_made() -> None:
    status = {
        **STATUS,
        "size": "1280x720",
        "latency_ms": {"p50": 141.2, "p95": 155.0},
        "rung": "adaptive",
        "adaptive": {"fresh": 0.784, "tiles_per_frame": 1.234},
        "source": {"state": "playing", "reconnects": 2, "error": ""},
        "sinks": [],
    }
    line = in_one_line(status, 79)
    assert line == "playing, 1280x720 at 30.0 fps -> 14.9 fps, 141 ms, adaptive, 78 %, 1.2 tiles"


@pytest.mark.slow
def test_bench_has_the_figures_of_adaptive_frames(cli: Cli, tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = cli(
        *("bench", "live", "clock=160x90@10", "--mode", "adaptive", "--engines", tiles),
        *("--seconds", 3, "--json", out),
    )
    assert ran.code == 0, ran.err
    found = read_result(out)["live"]
    assert found["adaptive"]["tiles_per_s"] > 0 and found["adaptive"]["tile_count"] == 12
    assert found["fps_out"] > 8 and "48x48" in found["engine"]
    assert "% model" in ran.out
