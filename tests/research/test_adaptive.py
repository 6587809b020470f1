"""The research command of adaptive mode runs, and its figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="clips are drawn with torch")
pytest.importorskip("skimage", reason="the photographs ship in scikit-image")

from streamdiffvsr.research import adaptive
from streamdiffvsr.research.adaptive import SIZE, makers
from streamdiffvsr.research.quality.clips import pictures


def test_clips_are_cut_faded_and_shaken_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "SIZE", (32, 48))
    source, other = pictures("validation", [])[:2]
    made = [make() for make in makers(source, other, 9)]
    by_kind: dict[str, Any] = {
        clip.name.removeprefix(source[0]).strip(): clip for clip in made if not clip.cuts
    }
    assert {"pan", "fast pan", "zoom", "turn", "shake", "layers", "camera", "noise"} < set(by_kind)
    assert {"dissolve", "flash", "fade"} < set(by_kind)
    (cut,) = [clip for clip in made if clip.cuts]
    assert cut.cuts == (3, 6)
    change = np.abs(np.diff(cut.truth.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert set(np.argsort(change)[-2:] + 1) == set(cut.cuts)
    fade = by_kind["fade"].truth.mean(axis=(1, 2, 3))
    assert fade[-1] < 0.15 * fade[0]
    flash = by_kind["flash"].lr.mean(axis=(1, 2, 3))
    assert min(flash[3:5]) > max(flash[5:8]) + 40
    assert by_kind["camera"].lr.shape == (9, 32, 48, 3)


@pytest.mark.slow
def test_a_quick_run_prints_a_table_and_draws_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"{name}.png" for name in ("plot", "picture")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    adaptive.main(["--quick", "--shares", "0.1", *options, "--json", str(tmp_path / "json")])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert result == json.loads((tmp_path / "json").read_text())
    clip = result["clips"][0]
    assert clip["input"] == f"{SIZE[1]}x{SIZE[0]}" and clip["tile_count"] == 28
    assert [point["tiles"] for point in clip["points"]] == [0, 3, 28]
    gains = [point["gain"] for point in clip["points"]]
    assert 0 < gains[0] < gains[1] < gains[2]
    assert "| coffee pan |" in out
    assert all(file.stat().st_size > 10_000 for file in files.values())
