"""A result as `bench` writes it, made up: two subjects on a CPU, or one on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamdiffvsr.tests.benchmarks.report.sample_subjects import Draw, quantiles, subjects_of


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
    draw = Draw(np.random.default_rng(seed), noise, round_noise, rounds, frames)
    subjects = subjects_of(draw, scale, gpu)
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
    draw = Draw(np.random.default_rng(seed), 0.08, 0.0, 1, 360)
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


def _baselines(draw: Draw, subject: dict[str, Any]) -> list[dict[str, Any]]:
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
