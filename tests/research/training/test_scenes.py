"""The true flow is true: what training and the quality figures rest on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamdiffvsr.research.training.losses import carried
from streamdiffvsr.research.training.scenes import Layer, camera, render
from streamdiffvsr.research.training.textures import texture

SIZE = (72, 96)


def picture(seed: int = 0, side: int = 160) -> torch.Tensor:
    """A smooth picture, so that resampling it twice loses little."""
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")[0].clamp(0, 1)


def shifts(*offsets: tuple[float, float]) -> torch.Tensor:
    poses = torch.eye(3, dtype=torch.float64).repeat(len(offsets), 1, 1)
    poses[:, :2, 2] = torch.tensor(offsets, dtype=torch.float64)
    return poses


def test_a_pan_is_the_flow_it_was_made_with() -> None:
    clip = render([Layer(picture(), None, shifts((20, 30), (22.5, 29)))], SIZE)
    # The window moves right by 2.5: what is at x now was at x + 2.5 before.
    assert torch.allclose(clip.flow[1, 0], torch.full(SIZE, 2.5), atol=1e-5)
    assert torch.allclose(clip.flow[1, 1], torch.full(SIZE, -1.0), atol=1e-5)
    assert not clip.flow[0].any() and not clip.visible[0].any()


@pytest.mark.parametrize("seed", range(4))
def test_the_previous_frame_carried_by_the_flow_is_this_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = camera(rng, (160, 160), SIZE, 3, speed=3, zoom=0.6)
    clip = render([Layer(picture(seed), None, poses)], SIZE)
    for n in (1, 2):
        moved = carried(clip.frames[n - 1 : n], clip.flow[n : n + 1])
        error = (moved - clip.frames[n]).abs() * clip.visible[n]
        still = (clip.frames[n - 1] - clip.frames[n]).abs() * clip.visible[n]
        assert error.mean() < 0.1 * still.mean()


def test_what_a_moving_thing_uncovers_is_not_visible() -> None:
    thing = Layer(torch.ones(3, 40, 40), torch.ones(1, 40, 40), shifts((-20, -10), (-30, -10)))
    clip = render([Layer(picture(), None, shifts((20, 20), (20, 20))), thing], SIZE)
    # The square went from x = 20 to 30: 20..29 shows background that was covered before.
    assert not clip.visible[1, 0, 20:40, 21:29].any()
    assert clip.visible[1, 0, 20:40, 32:58].all() and clip.visible[1, 0, 20:40, 70:].all()
    assert torch.allclose(clip.flow[1, 0, 20:40, 35:55], torch.full((20, 20), -10.0), atol=1e-5)
    assert not clip.flow[1, :, :, 70:].any()


@pytest.mark.parametrize("seed", range(12))
def test_textures_are_pictures_of_the_size_asked_for(seed: int) -> None:
    made = texture(np.random.default_rng(seed), 90)
    assert made.shape == (3, 90, 90)
    assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1
    assert made.std() > 0.01
