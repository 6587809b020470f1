"""A result as `bench` writes it, made up: two subjects on a CPU, or one on a GPU."""

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


def sample(
    seed: int = 0,
    *,
    scale: float = 1.0,
    noise: float = 0.02,
    round_noise: float = 0.004,
    rounds: int = 3,
    frames: int = 60,
    gpu: bool = False,
    noisy: bool = False,
) -> dict[str, Any]:
    """A complete result.

    Args:
        seed: Of the noise.
        scale: Of all times of a frame: 1.1 is a build that is 10 % slower.
        noise: Relative standard deviation of a frame's time.
        round_noise: The same of what a whole round has in common.
        frames: Timed frames, all rounds together.
        gpu: A full-size model on a GPU instead of the built-in one on a CPU.
        noisy: What a machine with other work reports of itself.
    """
    draw = _Draw(np.random.default_rng(seed), noise, round_noise, rounds, frames)
    subjects = _subjects(draw, scale, gpu)
    return {
        "schema": "streamdiffvsr.bench/1",
        "created": "2026-11-23T08:00:00Z",
        "command": ["--size", subjects[0]["input"], "--backends", "all"],
        "complete": True,
        "stopped": None,
        "timed": "a guided frame from uint8 to uint8 in host memory, without decoding and encoding "
        "of video; warm-up apart",
        "settings": {"frames": frames, "warm_up": 8, "rounds": rounds, "seed": 0},
        "machine": _machine(gpu),
        "noise": _noise(noisy),
        "subjects": subjects,
        "comparisons": _comparisons(subjects),
        "baselines": _baselines(draw, subjects[0]),
        "live": None,
    }


def live_sample(seed: int = 0, *, scale: float = 1.0) -> dict[str, Any]:
    """A result of `bench live`: no subjects, and no settings of frames."""
    draw = _Draw(np.random.default_rng(seed), 0.08, 0.0, 1, 360)
    whole = sample(seed)
    live = {
        "source": "clock",
        "seconds": 30,
        "mode": "latency",
        "stamped": True,
        "latency_ms": quantiles(draw.frames_of(781.0 * scale)),
        "age_ms": quantiles(draw.frames_of(1190.0 * scale)),
        "fps_in": 30.0,
        "fps_out": 1.3,
        "dropped": 861,
        "stages": {
            "wait": quantiles(draw.frames_of(36.0)),
            "engine": quantiles(draw.frames_of(729.0 * scale)),
            "to the sink": quantiles(draw.frames_of(14.0)),
        },
        "engine": "tiny 160x90 fp32, onnxruntime on cpu",
        "size": "160x90",
    }
    return {**whole, "subjects": [], "comparisons": [], "baselines": [], "live": live}


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


class _Draw:
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


def _subjects(draw: _Draw, scale: float, gpu: bool) -> list[dict[str, Any]]:
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
    draw: _Draw,
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


def _modes(draw: _Draw, stages: Mapping[str, float], gpu: bool) -> dict[str, Any]:
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


def _media(draw: _Draw) -> dict[str, Any]:
    return {
        "decode": quantiles(draw.frames_of(1.4)),
        "encode": quantiles(draw.frames_of(9.7)),
        "codec": "h264 in, h264 out (libx264 medium crf 18)",
    }


def _stages(draw: _Draw, stages: Mapping[str, float]) -> dict[str, Any]:
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


def _machine(gpu: bool) -> dict[str, Any]:
    card = {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "driver": "580.82",
        "memory": "139 GiB",
    }
    return {
        "cpu": "Intel(R) Xeon(R) Processor @ 2.50GHz",
        "cores": 16 if gpu else 2,
        "system": "Linux 6.8.0",
        "python": "3.11.7",
        "gpu": card if gpu else None,
        "power": {"source": "ac", "governor": "performance"},
        "load_average": [0.21, 0.34, 0.4],
        "versions": {"streamdiffvsr": "0.1.0", "onnxruntime": "1.32.0", "torch": "2.13.0"},
    }


def _noise(noisy: bool) -> dict[str, Any]:
    why = ["other processes had 31 % of the cores", "a round's median differed by 14 %"]
    return {
        "noisy": noisy,
        "why": why if noisy else [],
        "p50_spread": 0.14 if noisy else 0.013,
        "others_cpu": 0.31 if noisy else 0.02,
        "probe_spread": 0.12 if noisy else 0.011,
    }


def _comparisons(subjects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first, *others = subjects
    return [
        {
            "what": other["id"],
            "to": first["id"],
            "mode": "plain",
            "ratio": 2.31,
            "spread": [2.24, 2.39],
            "pairs": 3,
        }
        for other in others
    ]


def _baselines(draw: _Draw, subject: dict[str, Any]) -> list[dict[str, Any]]:
    frame = subject["modes"]["plain"]["frame_ms"]["p50"]
    made = (
        ("reference", "eager PyTorch in the original's order, same weights and device", 1.54, 4.1),
        ("bicubic", "bicubic upscale by PyTorch: no model", 0.011, None),
        ("command", "python other_upscaler.py {input} {output}", 3.2, 6.4),
    )
    return [
        {
            "id": name,
            "describe": describe,
            "subject": subject["id"],
            "frame_ms": quantiles(draw.frames_of(ratio * frame)),
            "start_up_s": start,
            "ratio": ratio,
            "spread": [round(0.97 * ratio, 4), round(1.04 * ratio, 4)],
            "pairs": 3,
        }
        for name, describe, ratio, start in made
    ]
