"""The seven graphs of `spec.py` as modules: tensors in, tensors out, in the order of their specs.

Each is one component of the reference with its constants folded; run in a row they give the
reference's frame. The float32 islands of an fp16 graph are visible here and in the modules they
call: flow, positions, the warp, the DDIM update and the rounding to uint8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schedule import StepTable
from ..spec import SCALE, Geometry, Precision, Size
from .autoencoder import TemporalAutoencoder
from .controlnet import ControlNet
from .fold import fold_denoiser, recast
from .image import (
    bicubic_by_convolution,
    bicubic_kernel,
    colour_kernel,
    from_uint8,
    match_colour,
    replicate_pad,
    to_uint8,
    warp,
)
from .model import Model
from .phase import split_phases
from .raft import RAFT, MakeCorrelation
from .unet import UNet


class Prepare(nn.Module):
    """frame (1, h, w, 3) uint8 -> lr (1, 3, h', w') in [-1, 1] and its bicubic x4, padded."""

    def __init__(self, padded: Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.padded, self.dtype, self.kernel = padded, dtype, bicubic_kernel()

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        lr = replicate_pad(from_uint8(frame), self.padded)
        return lr.to(self.dtype), bicubic_by_convolution(lr, self.kernel).to(self.dtype)


class Features(nn.Module):
    """up (1, 3, H, W) -> RAFT's features and context, at 1/8 of the flow's resolution."""

    def __init__(self, raft: RAFT, flow_scale: int) -> None:
        super().__init__()
        self.raft, self.flow_scale = raft, flow_scale

    def forward(self, up: Tensor) -> tuple[Tensor, Tensor]:
        if self.flow_scale > 1:
            up = F.avg_pool2d(up, self.flow_scale)
            up = replicate_pad(up, (-(-up.shape[2] // 8) * 8, -(-up.shape[3] // 8) * 8))
        return self.raft.encode(up)


class Flow(nn.Module):
    """Features of two frames and the current one's context -> flow (1, 2, H, W) in HR pixels."""

    def __init__(
        self, raft: RAFT, flow_scale: int, full: Size, correlation: MakeCorrelation
    ) -> None:
        super().__init__()
        self.raft, self.flow_scale, self.full = raft, flow_scale, full
        self.correlation = correlation

    def forward(self, fmap: Tensor, previous_fmap: Tensor, context: Tensor) -> Tensor:
        flow = self.raft.estimate(fmap, previous_fmap, context, self.correlation)
        if self.flow_scale > 1:
            scale = self.flow_scale
            # By size: a scale factor is exported as a double, and ONNX Runtime refuses it.
            size = (scale * flow.shape[2], scale * flow.shape[3])
            flow = scale * F.interpolate(flow, size=size, mode="bilinear")
        return flow[:, :, : self.full[0], : self.full[1]]


class Guide(nn.Module):
    """previous_hr and flow -> the warped frame (1, 3, H, W) and the ControlNet's hint."""

    def __init__(self, controlnet: ControlNet, full: Size) -> None:
        super().__init__()
        self.embedding, self.full = controlnet.controlnet_cond_embedding, full

    def forward(self, previous_hr: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        warped = warp(replicate_pad(previous_hr, self.full), flow)
        return warped, self.embedding(warped)


class Temporal(nn.Module):
    """warped (1, 3, H, W) -> the pooled features that the decoder's blocks take."""

    def __init__(self, vae: TemporalAutoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, warped: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.vae.temporal_features(warped))


class Denoise(nn.Module):
    """One step: ControlNet, UNet and the DDIM update. `gate` scales the ControlNet's residuals."""

    latent_scale: Tensor
    output_scale: Tensor

    def __init__(self, unet: UNet, controlnet: ControlNet, table: StepTable, prompt: Tensor):
        super().__init__()
        self.unet = fold_denoiser(unet, table, prompt)
        split_phases(self.unet)
        self.controlnet = fold_denoiser(controlnet, table, prompt)
        # Plain attributes: the update stays in float32 when the weights do not.
        self.latent_scale = torch.tensor(table.latent_scale, dtype=torch.float32)
        self.output_scale = torch.tensor(table.output_scale, dtype=torch.float32)

    def forward(
        self, latent: Tensor, lr: Tensor, hint: Tensor, step: Tensor, gate: Tensor
    ) -> Tensor:
        x = torch.cat([latent, lr], dim=1)
        down, mid = self.controlnet(x, step, None, hint)
        output = self.unet(x, step, None, ([gate * r for r in down], gate * mid))
        keep = self.latent_scale.index_select(0, step)
        add = self.output_scale.index_select(0, step)
        updated: Tensor = keep * latent.float() + add * output.float()
        return updated.to(latent.dtype)


class Decode(nn.Module):
    """Latent and temporal features -> raw hr and the uint8 frame, cropped to the frame's size.

    A model that matches colours takes LR as well, in front of the features.
    """

    def __init__(self, vae: TemporalAutoencoder, crop: Size) -> None:
        super().__init__()
        self.vae, self.crop = recast(vae, torch.float32), crop  # a copy, whose layers may change
        split_phases(self.vae)
        self.blur, self.kernel = colour_kernel(), bicubic_kernel()

    def forward(self, latent: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        *features, gate = others
        lr = features.pop(0) if self.vae.config.match_colour else None
        hr = self.vae.decode(latent, features, gate)
        if lr is not None:
            hr = match_colour(hr, lr, self.blur, self.kernel)
        hr = hr[:, :, : self.crop[0], : self.crop[1]]
        return hr, to_uint8(hr)


def build_graphs(
    model: Model,
    geometry: Geometry,
    precision: Precision,
    table: StepTable,
    correlation: MakeCorrelation,
) -> dict[str, nn.Module]:
    """Every graph of `spec.GRAPHS` at a size, in eval mode; weights are shared if they can be."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    full = (SCALE * geometry.padded[0], SCALE * geometry.padded[1])
    shown = geometry.size if geometry.tile is None else geometry.tile
    crop = (SCALE * shown[0], SCALE * shown[1])
    graphs = {
        "prepare": Prepare(geometry.padded, dtype),
        "features": Features(model.flow, geometry.flow_scale),
        "flow": Flow(model.flow, geometry.flow_scale, full, correlation),
        "guide": Guide(model.controlnet, full),
        "temporal": Temporal(model.vae),
        "denoise": Denoise(model.unet, model.controlnet, table, model.prompt_embeds),
        "decode": Decode(model.vae, crop),
    }
    return {name: recast(graph.eval(), dtype) for name, graph in graphs.items()}
