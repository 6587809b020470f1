"""RAFT for a batch, with every update's flow: training needs both, an engine neither.

The same arithmetic as `export.raft`, which is written for one pair and keeps only the last update.
Teed, Deng (arXiv:2003.12039).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...export.raft import RAFT, pixel_grid, upsample_flow

FLOW_SCALE = 2  # the built-in model computes its flow at half the output's resolution


def flow_images(lr: Tensor) -> Tensor:
    """Returns RAFT's input: LR (B, 3, h, w) bicubic at HR, halved: (B, 3, 2h, 2w)."""
    up = F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False)
    return F.avg_pool2d(up, FLOW_SCALE)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The flow after each update, (B, 2, H, W) in pixels of the images, and its correlation.

    `correlation` (B, h w, h w) is the all-pairs volume: current positions by previous ones.
    """

    flows: list[Tensor]
    correlation: Tensor


def estimate(raft: RAFT, image: Tensor, previous: Tensor) -> Estimate:
    """Returns the flow from `image` to `previous`, both (B, 3, H, W)."""
    features, previous_features = raft.feature_encoder(torch.cat([image, previous])).chunk(2)
    context = raft.context_encoder(image)
    hidden, inputs = torch.tanh(context[:, : raft.hidden]), F.relu(context[:, raft.hidden :])
    lookup = _Pyramid(raft, features, previous_features)
    height, width = features.shape[2:]
    start = pixel_grid(height, width)
    flow = torch.zeros(len(image), 2, height, width)
    flows = []
    for _ in range(raft.config.num_flow_updates):
        flow = flow.detach()  # as in the paper: each update is trained independently
        motion = raft.update_block.motion_encoder(flow, lookup(start + flow))
        for unit in raft.update_block.recurrent_block.units():
            hidden = unit(hidden, torch.cat([inputs, motion], dim=1))
        flow = flow + raft.update_block.flow_head(hidden)
        mask = None if raft.mask_predictor is None else raft.mask_predictor(hidden)
        flows.append(upsample_flow(flow, mask))
    return Estimate(flows, lookup.levels[0].view(len(image), height * width, -1))


@torch.no_grad()
def hr_flow(raft: RAFT, lr: Tensor, previous_lr: Tensor) -> Tensor:
    """Returns the flow as the engines compute it at `FLOW_SCALE`: (B, 2, 4h, 4w) in HR pixels."""
    flow = estimate(raft, flow_images(lr), flow_images(previous_lr)).flows[-1]
    return FLOW_SCALE * F.interpolate(flow, scale_factor=FLOW_SCALE, mode="bilinear")


class _Pyramid:
    """All-pairs correlation, looked up by a bilinear sampler (section 3.2 of the paper)."""

    def __init__(self, raft: RAFT, features: Tensor, previous: Tensor) -> None:
        batch, channels, height, width = features.shape
        volume = features.flatten(2).transpose(1, 2) @ previous.flatten(2) / channels**0.5
        self.levels = [volume.view(-1, 1, height, width)]
        for _ in range(raft.config.corr_block_num_levels - 1):
            self.levels.append(F.avg_pool2d(self.levels[-1], 2, 2))
        steps = torch.arange(-raft.config.corr_block_radius, raft.config.corr_block_radius + 1.0)
        self.delta = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)
        self.shape = (batch, height, width)

    def __call__(self, positions: Tensor) -> Tensor:
        """Looks up (B, 2, h, w), x first -> (B, levels (2r+1)^2, h, w), x offsets slowest."""
        batch, height, width = self.shape
        centres = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        samples = []
        for volume in self.levels:
            size = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1])
            grid = 2 * (centres + self.delta) / size - 1
            samples.append(F.grid_sample(volume, grid, align_corners=True).flatten(1))
            centres = centres / 2
        return torch.cat(samples, dim=1).view(batch, height, width, -1).permute(0, 3, 1, 2)
