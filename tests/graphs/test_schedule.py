"""The schedule against the recorded tables, diffusers' DDIM step by step, and its own errors."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.graphs.schedule import (
    BETA_SCHEDULES,
    PREDICTIONS,
    SPACINGS,
    ScheduleConfig,
    alphas_cumprod,
    step_table,
    timesteps,
)

RELEASED = ScheduleConfig(
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    steps_offset=1,
    set_alpha_to_one=False,
)
TRAILING = {999: 7.3341199e-4, 749: 0.038605507, 499: 0.33318782, 249: 0.82152122}
LEADING = {751: 0.03769809, 501: 0.32936582, 251: 0.81849253, 1: 0.99979734}
FIRST = 0.99989998


@pytest.mark.parametrize(("spacing", "table"), [("trailing", TRAILING), ("leading", LEADING)])
def test_the_released_schedule_visits_the_recorded_timesteps(
    spacing: str, table: dict[int, float]
) -> None:
    config = replace(RELEASED, timestep_spacing=spacing)
    assert list(timesteps(config, 4)) == list(table)
    alpha_bar = alphas_cumprod(config)
    # numpy and torch round a float32 linspace differently in the last bit.
    assert alpha_bar[list(table)] == pytest.approx(list(table.values()), rel=3e-6)
    assert alpha_bar[0] == pytest.approx(FIRST, rel=1e-7)


def test_the_recorded_run_used_this_schedule(parity_trace: dict[str, Any]) -> None:
    np.testing.assert_array_equal(timesteps(RELEASED, 4), parity_trace["timesteps"])
    np.testing.assert_allclose(
        alphas_cumprod(RELEASED), parity_trace["alphas_cumprod"], rtol=3e-6, atol=0
    )
    assert alphas_cumprod(RELEASED)[0] == pytest.approx(float(parity_trace["final_alpha_cumprod"]))


def diffusers_scheduler(config: ScheduleConfig) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DDIMScheduler(**asdict(config), clip_sample=False)


@pytest.mark.parametrize(("beta_schedule", "spacing"), list(product(BETA_SCHEDULES, SPACINGS)))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_step_is_diffusers_ddim_step(
    prediction: str, spacing: str, beta_schedule: str
) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, 6, 5, generator=generator)
    output = torch.randn(1, 4, 6, 5, generator=generator)
    for to_one, steps in product((True, False), (1, 2, 4)):
        config = ScheduleConfig(
            beta_schedule=beta_schedule,
            prediction_type=prediction,
            timestep_spacing=spacing,
            steps_offset=1,
            set_alpha_to_one=to_one,
        )
        table, scheduler = step_table(config, steps), diffusers_scheduler(config)
        scheduler.set_timesteps(steps)
        assert len(table) == steps
        assert list(table.timesteps) == scheduler.timesteps.tolist()
        for t, keep, add in zip(
            table.timesteps, table.latent_scale, table.output_scale, strict=True
        ):
            expected = scheduler.step(output, int(t), latent, eta=0.0).prev_sample
            error = (float(keep) * latent + float(add) * output - expected).abs().max()
            assert error <= 1e-5 * expected.abs().max().clamp(min=1), (config, steps, int(t))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_diffusers_for_uneven_counts_too(spacing: str, offset: int) -> None:
    config = replace(RELEASED, timestep_spacing=spacing, steps_offset=offset)
    scheduler = diffusers_scheduler(config)
    for steps in (3, 7, 30, 999):
        scheduler.set_timesteps(steps)
        visited = timesteps(config, steps)
        assert visited.dtype == np.int64
        assert list(visited) == scheduler.timesteps.tolist(), steps


def test_the_shortest_and_longest_schedules_fit() -> None:
    for spacing in SPACINGS:
        config = replace(RELEASED, timestep_spacing=spacing, steps_offset=0)
        assert len(step_table(config, 1)) == 1
        visited = timesteps(config, 1000)
        assert visited[0] == 999 and visited[-1] == 0 and (np.diff(visited) == -1).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta_schedule", "squaredcos_cap_v2"),
        ("prediction_type", "flow"),
        ("timestep_spacing", "karras"),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", 100_001),
        ("beta_start", 0.0),
        ("beta_start", 0.03),  # above beta_end
        ("beta_end", 1.0),
        ("beta_end", float("nan")),
    ],
)
def test_a_value_that_is_no_schedule_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        replace(RELEASED, **{field: value})


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps must be 1 to 1000"):
        step_table(RELEASED, steps)


def test_an_offset_past_the_last_timestep_is_refused() -> None:
    config = replace(RELEASED, timestep_spacing="leading", steps_offset=250)
    with pytest.raises(ValueError, match="steps_offset 250"):
        step_table(config, 4)
    step_table(replace(config, steps_offset=249), 4)
