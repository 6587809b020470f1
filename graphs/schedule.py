"""DDIM: the denoising steps as a fixed table of coefficients.

These are pure functions on the host, in float64 after the cumulative product, which is float32 as
in the reference; each cites its equation. The table is folded into the `denoise` graph and indexed
there by the step.

Song, Meng, Ermon: Denoising Diffusion Implicit Models (arXiv:2010.02502), eq. 12 with eta = 0.
Salimans, Ho: Progressive Distillation (arXiv:2202.00512), appendix D, for the v-prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import refuse, shown
from .arrays import Array
from .spec import DEFAULT_STEPS

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
BETA_SCHEDULES = ("linear", "scaled_linear")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """The part of diffusers' `scheduler_config.json` that affects the output."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    def __post_init__(self) -> None:
        for key, words in (
            ("beta_schedule", BETA_SCHEDULES),
            ("prediction_type", PREDICTIONS),
            ("timestep_spacing", SPACINGS),
        ):
            if (word := getattr(self, key)) not in words:
                refuse(key, word, " or ".join(map(shown, words)))
        last, start, end = self.num_train_timesteps - 1, self.beta_start, self.beta_end
        if not 0 <= last < 100_000:
            refuse("num_train_timesteps", last + 1, "a whole number from 1 to 100000")
        if not 0 <= self.steps_offset <= last:
            refuse("steps_offset", self.steps_offset, f"a whole number from 0 to {last}")
        if not 1e-9 <= start <= 0.999:
            refuse("beta_start", start, "a number from 1e-09 to 0.999")
        if not start <= end <= 0.999:
            refuse("beta_end", end, f"a number from beta_start ({start:g}) to 0.999")


@dataclass(frozen=True, slots=True)
class StepTable:
    """The coefficients of all steps.

    `latent' = latent_scale[i] * latent + output_scale[i] * output`.

    Both scales have shape (steps,) in float64; `timesteps` has shape (steps,) in int64, falling.
    """

    timesteps: Array
    latent_scale: Array
    output_scale: Array

    def __len__(self) -> int:
        return len(self.timesteps)


def alphas_cumprod(config: ScheduleConfig) -> Array:
    """Returns the cumulative signal power of training, shape (num_train_timesteps,), float32.

    DDIM eq. 4. The product is computed in float32, as in the reference.
    """
    n, lo, hi = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "scaled_linear":
        betas = np.linspace(np.float32(lo**0.5), np.float32(hi**0.5), n, dtype=np.float32) ** 2
    else:
        betas = np.linspace(lo, hi, n, dtype=np.float32)
    return np.cumprod(np.float32(1.0) - betas, dtype=np.float32)


def timesteps(config: ScheduleConfig, steps: int) -> Array:
    """Returns the training timesteps that are visited, falling, shape (steps,), int64.

    Spacings as in table 2 of "Common Diffusion Noise Schedules" (arXiv:2305.08891).
    """
    n = config.num_train_timesteps
    if not 1 <= steps <= n:
        raise ValueError(f"steps must be 1 to {n}, {steps=}")
    if config.timestep_spacing == "trailing":
        return np.round(np.arange(n, 0, -n / steps)).astype(np.int64)[:steps] - 1
    if config.timestep_spacing == "linspace":
        return np.linspace(0, n - 1, steps).round()[::-1].astype(np.int64)
    visited = (np.arange(steps) * (n // steps)).round()[::-1].astype(np.int64) + config.steps_offset
    if visited[0] >= n:
        raise ValueError(f"steps_offset {config.steps_offset} leads past the last timestep {n - 1}")
    return visited


def step_table(config: ScheduleConfig, steps: int = DEFAULT_STEPS) -> StepTable:
    """Returns the DDIM update (eq. 12, eta = 0, no clipping) folded to two scalars per step.

    With a = alpha_bar(t) and p = alpha_bar(t - T/steps), every prediction type gives a clean
    estimate x0 and a noise estimate e that are linear in (latent, output), and the update is
    latent' = sqrt(p) x0 + sqrt(1 - p) e.
    """
    alpha_bar = alphas_cumprod(config).astype(np.float64)
    final = 1.0 if config.set_alpha_to_one else alpha_bar[0]
    visited = timesteps(config, steps)
    previous = visited - config.num_train_timesteps // steps
    a = alpha_bar[visited]
    p = np.where(previous >= 0, alpha_bar[np.maximum(previous, 0)], final)
    signal, noise = np.sqrt(a), np.sqrt(1.0 - a)
    if config.prediction_type == "v_prediction":  # x0 = signal x - noise v; e = signal v + noise x
        x0_latent, x0_output, e_latent, e_output = signal, -noise, noise, signal
    elif config.prediction_type == "epsilon":  # x0 = (x - noise e) / signal
        x0_latent, x0_output = 1.0 / signal, -noise / signal
        e_latent, e_output = np.zeros_like(a), np.ones_like(a)
    else:  # sample: e = (x - signal x0) / noise
        x0_latent, x0_output = np.zeros_like(a), np.ones_like(a)
        e_latent, e_output = 1.0 / noise, -signal / noise
    keep, add = np.sqrt(p), np.sqrt(1.0 - p)
    return StepTable(visited, keep * x0_latent + add * e_latent, keep * x0_output + add * e_output)
