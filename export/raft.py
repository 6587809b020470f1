"""RAFT: optical flow between two frames, split so that each frame is encoded once.

Teed, Deng: RAFT (arXiv:2003.12039). Every width, depth and count comes from the config;
RAFT-large and RAFT-small checkpoints in torchvision's naming load as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configs import RAFTConfig
from .correlation import AllPairs, Correlation
from .raft_encoder import Encoder
from .raft_update import MaskPredictor, UpdateBlock, upsample_flow

MakeCorrelation = Callable[[Tensor, Tensor, int, int], Correlation]
MIN_SIDE = 128  # the coarsest correlation level must still be two pixels wide


def pixel_grid(height: int, width: int) -> Tensor:
    """Pixel coordinates (1, 2, h, w) in float32, x first."""
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([xs, ys])[None]


class RAFT(nn.Module):
    """`encode` each frame, then `estimate` the flow from the current frame to the previous."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = config.recurrent_block_hidden_state_size
        self.feature_encoder = Encoder(
            config.feature_encoder_layers,
            config.feature_encoder_block,
            config.feature_encoder_norm_layer,
        )
        self.context_encoder = Encoder(
            config.context_encoder_layers,
            config.context_encoder_block,
            config.context_encoder_norm_layer,
        )
        context = config.context_encoder_layers[-1] - self.hidden
        self.update_block = UpdateBlock(config, context)
        self.mask_predictor = (
            MaskPredictor(self.hidden, config.mask_predictor_hidden_size)
            if config.mask_predictor_hidden_size
            else None
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W) nominally in [-1, 1], H and W multiples of 8 and at least 128.

        Returns:
            Features to match (1, F, H/8, W/8) and context (1, hidden + C, H/8, W/8).
        """
        return self.feature_encoder(image), self.context_encoder(image)

    def estimate(
        self,
        fmap: Tensor,
        previous_fmap: Tensor,
        context: Tensor,
        make_correlation: MakeCorrelation = AllPairs,
    ) -> Tensor:
        """The flow in pixels of the image, (1, 2, H, W) float32, x first.

        It points from a pixel of the current frame to where that was in the previous one.
        Positions, correlation and flow stay in float32 in any precision; only the last update's
        hidden state is upsampled.
        """
        config = self.config
        correlation = make_correlation(
            fmap, previous_fmap, config.corr_block_num_levels, config.corr_block_radius
        )
        hidden = torch.tanh(context[:, : self.hidden])
        inputs = F.relu(context[:, self.hidden :])
        updates = [unit.unroll(inputs) for unit in self.update_block.recurrent_block.units()]
        height, width = fmap.shape[2:]
        start = pixel_grid(height, width).to(fmap.device)
        # Zero, and not a constant: its first lookup would be folded into kilobytes a pixel.
        flow = 0 * fmap[:, :2].float()
        for _ in range(config.num_flow_updates):
            corr = correlation.lookup((start + flow).flatten(2)[0].T)  # (h w, samples)
            corr = corr.T.reshape(1, -1, height, width).to(fmap.dtype)
            motion = self.update_block.motion_encoder(flow.to(fmap.dtype), corr)
            for update in updates:
                hidden = update(hidden, motion)
            flow = flow + self.update_block.flow_head(hidden).float()
        mask = None if self.mask_predictor is None else self.mask_predictor(hidden)
        return upsample_flow(flow, mask)
