"""The subjects of a made-up result: frame times with some noise, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Of a frame on its own, ms. The overlapped run has three streams, as `runtime/overlap.py`.
CPU_STAGES = {
    "prepare": 11.2,
    "features": 58.7,
    "flow": 55.8,
    "guide": 24.1,
    "temporal": 38.6,
    "denoise 1": 79.9,
    "denoise 2": 81.3,
    "denoise 3": 80.4,
    "denoise 4": 80.8,
    "decode": 118.4,
}
GPU_STAGES = {
    "upload": 0.04,
    "prepare": 0.11,
    "features": 0.86,
    "flow": 2.31,
    "guide": 0.72,
    "temporal": 0.55,
    "denoise 1": 4.02,
    "denoise 2": 4.01,
    "denoise 3": 4.03,
    "denoise 4": 4.02,
    "decode": 3.41,
    "download": 0.16,
}
STREAM = {"upload": "input", "prepare": "input", "features": "input", "flow": "input"}
STREAM |= {"decode": "output", "download": "output"}
# GFLOP and GB of a frame, by graph.
CPU_WORK = {
    "prepare": (0.06, 0.004),
    "features": (6.1, 0.055),
    "flow": (5.4, 0.24),
    "guide": (2.6, 0.05),
    "temporal": (3.3, 0.12),
    "denoise": (33.5, 0.61),
    "decode": (12.8, 0.31),
}
GPU_WORK = {
    "prepare": (0.5, 0.03),
    "features": (125.0, 0.48),
    "flow": (1050.0, 5.2),
    "guide": (281.0, 0.86),
    "temporal": (74.0, 0.45),
    "denoise": (20900.0, 42.0),
    "decode": (494.0, 2.8),
}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The contract's quantiles of some values."""
    found = np.percentile(values, (50, 90, 95, 99))
    named = dict(
        zip(("p50", "p90", "p95", "p99"), (round(float(q), 4) for q in found), strict=True)
    )
    return {
        "n": len(values),
        "mean": round(float(np.mean(values)), 4),
        **named,
        "max": round(float(np.max(values)), 4),
        "min": round(float(np.min(values)), 4),
    }


class Draw:
    """Frame times: each round has a level of its own, each frame its own noise, few are late."""

    def __init__(
        self, rng: np.random.Generator, noise: float, round_noise: float, rounds: int, frames: int
    ) -> None:
        self._rng, self._noise, self._round_noise = rng, noise, round_noise
        self._rounds, self._each = rounds, max(1, frames // rounds)

    def frames_of(self, ms: float) -> list[float]:
        levels = np.exp(self._rng.normal(0, self._round_noise, (self._rounds, 1)))
        shape = (self._rounds, self._each)
        late = 1 + self._noise * self._rng.exponential(4, shape) * (self._rng.random(shape) < 0.06)
        noise = np.exp(self._rng.normal(0, self._noise, shape))
        return [round(float(value), 4) for value in (ms * levels * noise * late).ravel()]

    def mode(self, ms: float, latency: float, **more: Any) -> dict[str, Any]:
        samples = self.frames_of(ms)
        blocks = np.array(samples).reshape(self._rounds, self._each)
        return {
            "frame_ms": quantiles(samples),
            "latency_ms": quantiles(self.frames_of(latency)),
            "fps": round(1000 / float(np.mean(samples)), 3),
            "rounds_p50": [round(float(p), 4) for p in np.median(blocks, axis=1)],
            "host_ms": quantiles(self.frames_of(0.0004 * ms + 0.11)),
            "launches": 14,
            "not_captured": None,
            "samples_ms": samples,
            **more,
        }


def subjects_of(draw: Draw, scale: float, gpu: bool) -> list[dict[str, Any]]:
    """Returns sample results of two backends on a CPU, or of one on a GPU."""
    if gpu:
        return [_subject(draw, "320x180 tensorrt cuda fp16", _scaled(GPU_STAGES, scale), GPU_WORK)]
    slower = _scaled(CPU_STAGES, 2.31 * scale)
    return [
        _subject(draw, "160x90 onnxruntime cpu fp32", _scaled(CPU_STAGES, scale), CPU_WORK),
        _subject(draw, "160x90 torch cpu fp32", slower, CPU_WORK, brief=True),
    ]


def _scaled(stages: Mapping[str, float], scale: float) -> dict[str, float]:
    return {name: ms * scale for name, ms in stages.items()}


def _subject(
    draw: Draw,
    name: str,
    stages: Mapping[str, float],
    work: Mapping[str, tuple[float, float]],
    *,
    brief: bool = False,
) -> dict[str, Any]:
    size, backend, device, precision = name.split()
    width, height = (int(side) for side in size.split("x"))
    gpu = device == "cuda"
    modes = _modes(draw, stages, gpu)
    memory = {"host_peak": 437, "device_peak": None, "estimate": 441}
    if gpu:
        memory = {"host_peak": 1510, "device_peak": 3320, "estimate": 3210}
    return {
        "id": name,
        "model": "full" if gpu else "tiny",
        "backend": backend,
        "device": device,
        "precision": precision,
        "steps": 4,
        "flow_scale": 1,
        "tile": None,
        "input": size,
        "output": f"{4 * width}x{4 * height}",
        "start_up": _start_up(0.4 if gpu else 0.25),
        "memory_mb": memory,
        "modes": {"plain": modes["plain"]} if brief else modes,
        "stages": _stages(draw, stages),
        "stage_timing_overhead": None if brief else _overhead(),
        "media": None if brief else _media(draw),
        "file_rate": None if brief else _file_rate(frame=sum(stages.values())),
        "timeline": [] if brief else _timeline(stages, 1.0 if gpu else 1.6),
        "roofline": _roofline(stages, work, gpu),
    }


def _modes(draw: Draw, stages: Mapping[str, float], gpu: bool) -> dict[str, Any]:
    """The three modes: on a GPU the busiest stream sets the pace, on a CPU all share the cores."""
    frame = sum(stages.values())
    busiest = max(_busy(stages, stream) for stream in ("input", "denoise", "output"))
    captured: dict[str, Any] = {"launches": 3, "not_captured": {}} if gpu else {}
    return {
        "plain": draw.mode(frame, frame),
        "throughput": draw.mode(busiest if gpu else 0.93 * frame, 2.1 * frame, **captured),
        "latency": draw.mode(0.97 * frame, 0.97 * frame, **captured),
    }


def _busy(stages: Mapping[str, float], stream: str) -> float:
    return sum(ms for name, ms in stages.items() if STREAM.get(name, "denoise") == stream)


def _start_up(import_s: float) -> dict[str, dict[str, float]]:
    cold = {"import": 4 * import_s, "open": 2.87, "first_frame": 1.12}
    warm = {"import": import_s, "open": 0.94, "first_frame": 0.83}
    return {
        "cold_s": {**cold, "all": round(sum(cold.values()) + 0.05, 3)},
        "warm_s": {**warm, "all": round(sum(warm.values()) + 0.05, 3)},
    }


def _overhead() -> dict[str, Any]:
    return {"ratio": 1.002, "spread": [0.994, 1.008], "pairs": 6}


def _file_rate(frame: float) -> dict[str, Any]:
    fps = round(1e3 / frame, 3)
    shares = [0.971, 0.982, 0.968]
    return {"frames": 60, "fps": 0.971 * fps, "engine_fps": fps, "share": 0.971, "shares": shares}


def _media(draw: Draw) -> dict[str, Any]:
    return {
        "decode": quantiles(draw.frames_of(1.4)),
        "encode": quantiles(draw.frames_of(9.7)),
        "codec": "h264 in, h264 out (libx264 medium crf 18)",
    }


def _stages(draw: Draw, stages: Mapping[str, float]) -> dict[str, Any]:
    frame = sum(stages.values())
    return {
        "order": list(stages),
        "ms": {name: quantiles(draw.frames_of(ms)) for name, ms in stages.items()},
        "sum_p50": round(0.994 * frame, 3),
        "frame_p50": round(frame, 3),
        "accounted": 0.994,
    }


def _timeline(stages: Mapping[str, float], stretch: float) -> list[dict[str, Any]]:
    """Three frames: a stream takes a frame's stage as soon as it and what it needs are free."""
    free = {"input": 0.0, "denoise": 0.0, "output": 0.0}
    entered, spans, decoded = [0.0] * 6, [], 0.0
    for frame in range(3):
        at = entered[frame]
        for name, ms in stages.items():
            stream = STREAM.get(name, "denoise")
            at = max(at, free[stream], decoded if name == "guide" else 0.0)
            end = at + stretch * ms
            spans.append(
                {
                    "track": stream,
                    "process": "engine",
                    "name": name,
                    "frame": 12 + frame,
                    "start_ms": round(at, 3),
                    "end_ms": round(end, 3),
                }
            )
            at = free[stream] = end
            decoded = end if name == "decode" else decoded
            entered[frame + 2] = end
    return spans


def _roofline(
    stages: Mapping[str, float], work: Mapping[str, tuple[float, float]], gpu: bool
) -> dict[str, Any]:
    gflops, gbps = (1.62e6, 3900.0) if gpu else (141.0, 10.4)
    graphs = {}
    for name, (gflop, gbyte) in work.items():
        ms = sum(t for stage, t in stages.items() if stage.split()[0] == name)
        limit = 1000 * max(gflop / gflops, gbyte / gbps)
        graphs[name] = {
            "runs": 4 if name == "denoise" else 1,
            "gflop": gflop,
            "gbyte": gbyte,
            "limit_ms": round(limit, 4),
            "measured_ms": round(ms, 4),
            "share": round(limit / ms, 4),
            "bound": "compute" if gflop / gflops > gbyte / gbps else "memory",
        }
    total = {
        k: round(sum(g[k] for g in graphs.values()), 4) for k in ("gflop", "gbyte", "limit_ms")
    }
    frame = sum(stages.values())
    whole = {**total, "measured_ms": round(frame, 4), "share": round(total["limit_ms"] / frame, 4)}
    rates = {
        "gflops": gflops,
        "copy_gbps": gbps,
        "precision": "fp16" if gpu else "fp32",
        "how": "matrix product 2048x2048 by onnxruntime; copy of 256 MiB",
    }
    return {"measured": True, "rates": rates, "graphs": graphs, "frame": whole}
