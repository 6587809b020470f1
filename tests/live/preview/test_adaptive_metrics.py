"""The figures of adaptive frames as Prometheus series."""

from __future__ import annotations

from streamdiffvsr.runtime.live.preview.metrics import Metrics

ADAPTIVE = {
    **{"fresh": 0.5, "carried": 0.3, "bicubic": 0.2, "tiles_per_frame": 1.5, "tiles_per_s": 15.0},
    **{"tile_ms": 40.5, "tile_count": 12, "oldest_s": 3.5, "regions": [[0, 0, 8, 8]]},
}


def test_adaptive_figures_are_series() -> None:
    status = {"state": "playing", "running": "adaptive", "adaptive": ADAPTIVE}
    text = Metrics(lambda: status).text().decode()
    for line in (
        'streamdiffvsr_running{mode="adaptive"} 1.0',
        'streamdiffvsr_running{mode="exact"} 0.0',
        'streamdiffvsr_adaptive_picture_ratio{part="fresh"} 0.5',
        'streamdiffvsr_adaptive_picture_ratio{part="bicubic"} 0.2',
        "streamdiffvsr_adaptive_tiles_per_second 15.0",
        "streamdiffvsr_adaptive_tile_milliseconds 40.5",
        "streamdiffvsr_adaptive_oldest_seconds 3.5",
    ):
        assert line in text.splitlines()


def test_whole_frames_have_no_such_figures() -> None:
    status = {"state": "playing", "running": "exact", "adaptive": None}
    text = Metrics(lambda: status).text().decode()
    assert "adaptive_tiles_per_second" not in text and "ratio{" not in text
    assert 'streamdiffvsr_running{mode="exact"} 1.0' in text.splitlines()
