"""The command: one run prints the table, the bounds and the JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")
Image = pytest.importorskip("PIL.Image")

from streamdiffvsr.research.quality import __main__ as quality  # noqa: E402
from streamdiffvsr.research.quality.metrics import bicubic_frames  # noqa: E402
from streamdiffvsr.runtime.state import StreamState  # noqa: E402

SIZES = [(56, 96), (90, 160)]


class FakeUpscaler:
    """Bicubic at one size."""

    manifest = SimpleNamespace(key=SimpleNamespace(precision="fp32"))

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def initial_state(self, seed: int = 0) -> StreamState:
        return StreamState(seed=seed)

    def step(self, frame: Any, state: StreamState) -> tuple[Any, StreamState]:
        assert frame.shape == (*self.size, 3)
        return bicubic_frames(frame[None])[0], replace(state, frame_index=state.frame_index + 1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((420, 260)).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


def read(out: str) -> tuple[list[str], dict[str, Any]]:
    *lines, last = out.splitlines()
    result: dict[str, Any] = json.loads(last)
    return lines, result


def check_result(result: dict[str, Any]) -> None:
    kinds = ["still", "pan", "zoom", "turn", "layers", "noisy", "cut", "drift"]
    assert [clip["kind"] for clip in result["clips"]] == kinds
    assert [clip["frames"] for clip in result["clips"]] == [4] * 7 + [30]
    assert result["passed"] == all(check["passed"] for check in result["verdict"])
    assert (result["speed"]["input"], result["speed"]["output"]) == ("160x90", "640x360")
    assert result["speed"]["ms_per_frame_median"] > 0
    assert result["machine"]["cpu"] and result["photographs"] == ["mine"]
    for way in ("ours", "unguided", "bicubic"):
        assert set(result["mean"][way]) >= {"psnr", "ssim", "warp_error", "flicker"}


@pytest.mark.slow
def test_it_prints_a_table_the_bounds_and_the_json(
    picture: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    built = []

    def build(model: str, *, size: tuple[int, int], out: Path, progress: Any) -> tuple[int, int]:
        built.append((model, size, out.name))
        return size

    monkeypatch.setattr(quality.builder, "build", build)
    monkeypatch.setattr(quality, "load", FakeUpscaler)
    out, kept = tmp_path / "engines", tmp_path / "quality.json"
    quality.main(
        ["--quick", "--images", str(picture), "--engines-out", str(out), "--json", str(kept)]
    )
    lines, result = read(capsys.readouterr().out)
    assert built == [("tiny", SIZES[0], "96x56"), ("tiny", SIZES[1], "160x90")]
    check_result(result)
    assert not any(line.startswith("{") for line in lines)
    assert sum(line.startswith(("pass ", "FAIL ")) for line in lines) == len(result["verdict"])
    assert any(line.startswith("--quick: the bounds are for 24 frames") for line in lines)
    assert any(line.startswith("mine drift ") for line in lines)
    speed = f"{result['speed']['ms_per_frame_median']} ms a frame at 160x90 -> 640x360"
    assert lines[-1] == f"{speed}, {result['machine']['cpu']}"
    assert json.loads(kept.read_text()) == result
    for clip in result["clips"]:  # the stand-in is bicubic, so it is as good as bicubic
        assert clip["ours"] == clip["bicubic"] == clip["unguided"]
    assert result["passed"] is False


def test_what_is_missing_is_said_before_engines_are_built(monkeypatch: Any) -> None:
    monkeypatch.setattr(quality, "MODULES", {"no_such_module": "scikit-image"})
    monkeypatch.setattr(quality.builder, "build", lambda *a, **k: pytest.fail("it built"))
    with pytest.raises(SystemExit, match=r"error: .*scikit-image.*streamdiffvsr\[train\]"):
        quality.main(["--quick"])


def test_a_bad_picture_is_said_before_engines_are_built(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(quality.builder, "build", lambda *a, **k: pytest.fail("it built"))
    with pytest.raises(SystemExit, match=r"error: cannot read the picture .*none.png"):
        quality.main(["--images", str(tmp_path / "none.png")])


def test_too_few_frames_are_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exited:
        quality.main(["--frames", "3"])
    assert exited.value.code == 2 and "at least 4" in capsys.readouterr().err


@pytest.mark.slow
def test_with_a_real_model(picture: Path, tmp_path: Path, capsys: Any) -> None:
    """Random weights: the figures are bad, but guided frames differ from unguided ones."""
    from streamdiffvsr.export.random_model import write_random_model

    model = write_random_model(tmp_path / "model", preset="tiny")
    engines = str(tmp_path / "engines")
    arguments = ["--model", str(model), "--engines-out", engines, "--images", str(picture)]
    quality.main(["--quick", *arguments])
    _, result = read(capsys.readouterr().out)
    check_result(result)
    for clip in result["clips"]:
        assert clip["ours"] != clip["unguided"] and clip["ours"]["flicker"] > 0
    assert result["passed"] is False
