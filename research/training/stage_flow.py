"""Stage 2: the flow network, supervised by the true flow of the clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...export.raft import FACTOR, pixel_grid
from .batched_flow import FLOW_SCALE, estimate, flow_images, hr_flow
from .clips import Batch, ClipMaker
from .loop import Losses
from .networks import Networks
from .photographs import VALIDATION

KEY, VALIDATION_KEY = 2, 1_000_000
SIDE = 256  # HR pixels
CLIPS, FRAMES = 3, 4
# A cell of RAFT's features is 16 HR pixels: it does not learn to match from slow motion only.
PACES = (0.7, 6.0)
UPDATE_DECAY = 0.8  # an early update's flow counts less (RAFT, section 3.4)
MATCHING_WEIGHT = 0.1
# Share of the steps: updates that read useless features learn to be silent permanently.
MATCHING_FIRST = 0.2
SHARPNESS = 2.0  # keeps the correlation of order one: larger values saturate RAFT's gates
MIRRORS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
CELL = FLOW_SCALE * FACTOR  # HR pixels


@dataclass
class FlowStage:
    """Neighbouring frames; the loss is over every update's flow, and over the matching itself."""

    networks: Networks
    clips: ClipMaker
    steps: int
    name: str = "flow"
    groups: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        learning = self.networks.trainable("flow")
        matching = [*self.networks.flow.feature_encoder.parameters()]
        mine = {id(parameter) for parameter in matching}
        others = [parameter for parameter in learning if id(parameter) not in mine]
        self.groups = [
            {"params": matching, "lr": 6e-4},
            {"params": others, "lr": 6e-4, "start": MATCHING_FIRST},
        ]
        self.held_out = ClipMaker(self.clips.seed, VALIDATION).batch(
            (KEY, VALIDATION_KEY), 8, 2, (SIDE, SIDE)
        )

    def draw(self, step: int) -> Batch:
        return self.clips.batch((KEY, step), CLIPS, FRAMES, (SIDE, SIDE), PACES)

    def losses(self, step: int, drawn: Batch) -> Iterator[Losses]:
        images = flow_images(drawn.lr.flatten(0, 1))
        images = images.view(CLIPS, FRAMES, *images.shape[1:])
        matching_only = step < MATCHING_FIRST * self.steps
        flow, visible = drawn.flow[:, 1:].flatten(0, 1), drawn.visible[:, 1:].flatten(0, 1)
        seen = visible.flatten(1).any(1)  # not across a cut
        now, before = images[:, 1:].flatten(0, 1)[seen], images[:, :-1].flatten(0, 1)[seen]
        for mirror in MIRRORS:  # drawing a clip takes longer than learning from it
            signs = torch.tensor([-1.0 if 3 in mirror else 1.0, -1.0 if 2 in mirror else 1.0])
            turned = signs[:, None, None] * flow[seen].flip(mirror)
            losses = self._pairs(
                now.flip(mirror), before.flip(mirror), turned, visible[seen].flip(mirror)
            )
            if matching_only:
                losses["total"] = MATCHING_WEIGHT * losses["matching"]
            yield losses

    def _pairs(self, now: Tensor, before: Tensor, flow: Tensor, visible: Tensor) -> Losses:
        found = estimate(self.networks.flow, now, before)
        truth = F.avg_pool2d(flow, FLOW_SCALE) / FLOW_SCALE
        # Fast and slow pairs weigh the same: the error is relative to the motion.
        pace = 1 + truth.norm(dim=1).mean((1, 2))
        errors = [((f - truth).abs().mean((1, 2, 3)) / pace).mean() for f in found.flows]
        last = len(errors) - 1
        updates = torch.stack([UPDATE_DECAY ** (last - i) * e for i, e in enumerate(errors)]).sum()
        matching = matching_loss(found.correlation, flow, visible)
        return {
            "total": updates + MATCHING_WEIGHT * matching,
            "updates": updates,
            "matching": matching,
            "relative_error": errors[-1],
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns the mean end-point error in HR pixels, over pixels seen in the previous frame."""
        clips = self.held_out
        found = hr_flow(self.networks.flow, clips.lr[:, 1], clips.lr[:, 0])
        truth, visible = clips.flow[:, 1], clips.visible[:, 1, 0]
        error = ((found - truth).norm(dim=1) * visible).sum() / visible.sum()
        still = (truth.norm(dim=1) * visible).sum() / visible.sum()
        return {"end_point_error": error.item(), "of_no_motion": still.item()}


def matching_loss(correlation: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Returns the cross-entropy of each cell's correlation with the cells around its true place.

    RAFT's own loss has little influence on the features until the updates can read them; this one
    acts on them directly.

    Args:
        correlation: (B, h w, h w), current cells by previous ones.
        flow: (B, 2, H, W) in HR pixels.
        visible: (B, 1, H, W).
    """
    cells = F.avg_pool2d(flow, CELL) / CELL  # (B, 2, h, w)
    height, width = cells.shape[2:]
    place = (pixel_grid(height, width) + cells).flatten(2)  # (B, 2, h w)
    corner = place.floor()
    log = (SHARPNESS * correlation).log_softmax(dim=2)
    likelihood, inside = torch.zeros_like(place[:, 0]), F.avg_pool2d(visible, CELL).flatten(1) > 0.5
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[:, 0] + dx, corner[:, 1] + dy
        weight = (1 - (place[:, 0] - x).abs()) * (1 - (place[:, 1] - y).abs())
        inside = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        likelihood = likelihood + weight * log.gather(2, index[..., None])[..., 0]
    return -(likelihood * inside).sum() / inside.sum().clamp(min=1)
